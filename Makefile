# Everything a person or a CI machine does with this repository. Needs make and python3 3.11 or newer.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --editable

# Reinstalled when pyproject.toml is newer than the stamp, or when the environment has lost its Python.
STALE := pyproject.toml $(if $(wildcard $(PY)),,FORCE)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.installed  ## Serve the demo on http://127.0.0.1:8000 (PORT=... for another port)
	@$(PY) manage.py migrate --noinput --verbosity 0
	@$(PY) manage.py demo_admin
	@exec $(PY) manage.py serve --host 127.0.0.1 --port $(PORT)

test: lint  ## Check and test everything (PYTEST_ARGS=... for pytest, CI=true skips nothing)
	@$(PY) -m tests.machine
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## Only the checks: ruff, mypy, migrations
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) manage.py makemigrations --check --dry-run

format: $(VENV)/.installed-dev  ## Let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

docs: $(VENV)/.installed  ## Write the settings tables of the documentation anew
	@$(PY) -m docs.generate

bench: $(VENV)/.installed-bench  ## Measure against plain Channels (minutes; an idle machine, please)
	@$(PY) -m benchmarks.bench
	@$(PY) -m benchmarks.idle

clean:  ## Remove the environment, the caches and the demo's database
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist db.sqlite3 db.sqlite3-wal db.sqlite3-shm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(STALE)
	@$(call environment)
	@$(PIP) . || { echo "pip could not install the dependencies: see above." >&2; exit 1; }
	@touch $@

$(VENV)/.installed-dev: $(STALE)
	@$(call environment)
	@$(PIP) '.[dev]' || { echo "pip could not install the development dependencies: see above." >&2; exit 1; }
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(STALE)
	@$(call environment)
	@$(PIP) '.[bench]' || { echo "pip could not install what the benchmarks need: see above." >&2; exit 1; }
	@touch $@ $(VENV)/.installed

# Make $(VENV), or say in one line what keeps this machine from it.
define environment
command -v $(PYTHON) >/dev/null \
	|| { echo "No $(PYTHON): install Python 3.11 or newer (Debian: apt-get install python3 python3-venv; macOS: brew install python)." >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "$$($(PYTHON) --version 2>&1) is too old: Python 3.11 or newer is needed; name another with make PYTHON=python3.12 $(MAKECMDGOALS)." >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "$(PYTHON) has no venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }; \
$(PY) -m pip --version >/dev/null 2>&1 \
	|| { echo "Creating $(VENV) ..."; $(PYTHON) -m venv --clear $(VENV); } \
	|| { echo "$(PYTHON) could not create $(VENV): see above." >&2; exit 1; }; \
echo "Installing into $(VENV); the next time this is skipped ..."
endef

FORCE:

.PHONY: help run test lint format docs bench clean FORCE
.DEFAULT_GOAL := help
