"""The imports of a source tree, read from its syntax: nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Import:
    """One module importing another."""

    source: str
    target: str
    """A module of the tree by its full name; anything else as it is written."""
    line: int
    function: str | None
    """The function the import hides in; None at module level."""
    typing_only: bool
    """Whether it stands under ``if TYPE_CHECKING`` and so never runs."""

    def __str__(self) -> str:
        where = f" inside {self.function}()" if self.function else ""
        return f"{self.source} imports {self.target}{where} (line {self.line})"


def read(root: Path, packages: Iterable[str]) -> list[Import]:
    """Return every import of the modules of ``packages``, which are folders in ``root``."""
    files = {
        _module_name(path.relative_to(root)): path
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
    }
    return [found for name, path in files.items() for found in _Reader(name, path, files).imports()]


def cycles(imports: Iterable[Import]) -> list[list[str]]:
    """Return the groups of modules that import each other, however long the way round."""
    edges: dict[str, set[str]] = {}
    for found in imports:
        if not found.typing_only and found.source != found.target:
            edges.setdefault(found.source, set()).add(found.target)
    reachable = {name: _reach(name, edges) for name in edges}
    groups = {
        tuple(sorted(other for other in reached if name in reachable.get(other, ())))
        for name, reached in reachable.items()
        if name in reached
    }
    return [list(group) for group in sorted(groups)]


def _reach(start: str, edges: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(edges.get(name, ()))
    return reached


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Reader:
    """Walks one file."""

    def __init__(self, name: str, path: Path, files: dict[str, Path]) -> None:
        self.name = name
        self.path = path
        self.files = files

    def imports(self) -> Iterator[Import]:
        yield from self._walk(
            ast.parse(self.path.read_text(encoding="utf-8"), str(self.path)), None, typing_only=False
        )

    def _walk(self, node: ast.AST, function: str | None, *, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for target in self._targets(child):
                yield Import(self.name, target, child.lineno, function, typing_only)  # type: ignore[attr-defined]
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from self._walk(ast.Module(child.body, []), inside, typing_only=True)
                yield from self._walk(ast.Module(child.orelse, []), inside, typing_only=typing_only)
            else:
                yield from self._walk(child, inside, typing_only=typing_only)

    def _targets(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (self._known(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._base(node)
            # ``from realtime import hub`` imports the module realtime.hub, ``from realtime.hub import Hub`` too.
            yield from {self._known(f"{base}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if (
                called in ("__import__", "import_module")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield self._known(str(node.args[0].value))

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        kept = package[: len(package) - node.level + 1]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _known(self, dotted: str) -> str:
        """Return the longest part of ``dotted`` that is a module of the tree; a foreign name stays whole."""
        parts = dotted.split(".")
        for length in range(len(parts), 0, -1):
            if (name := ".".join(parts[:length])) in self.files:
                return name
        return dotted
