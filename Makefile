# Everything a person or a CI machine does with this repository. Needs make and python3 3.11 or newer.

PYTHON ?= python3
PORT ?= 8000
ENGINE ?= native
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --editable

# Reinstalled when pyproject.toml is newer than the stamp, or when the environment has lost its Python.
STALE := pyproject.toml $(if $(wildcard $(PY)),,FORCE)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

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

bench: $(VENV)/.installed  ## Measure beside plain Channels and other peers (20 minutes; an idle machine, please)
	@status=0; $(PY) -m benchmarks.bench --docs || status=1; $(PY) -m benchmarks.idle || status=1; exit $$status

conformance: $(VENV)/.installed  ## Run the Autobahn test suite against the engine (half an hour; ENGINE=daphne for the fallback)
	@$(PY) -m benchmarks.conformance --engine $(ENGINE)

channels: $(VENV)/.installed-channels  ## Run Channels' own tests on our server (needs its sources from GitHub)
	@$(PY) -m tests.channelsuite

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

$(VENV)/.installed-channels: $(STALE)
	@$(call environment)
	@$(PIP) '.[dev,channels]' || { echo "pip could not install what Channels' tests need: see above." >&2; exit 1; }
	@touch $@ $(VENV)/.installed $(VENV)/.installed-dev

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

.PHONY: help run test lint format docs bench conformance channels clean FORCE
.DEFAULT_GOAL := help
