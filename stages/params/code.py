"""Which code decides a result: a hash of a page and all that it imports, which DVC can depend on.

Comments, docstrings, layout and annotations that are only for type checkers do not count. Nor do the fields of
`Settings`: their effect is in the effective settings, which stand next to the hash.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

NEUTRAL = (
    # How a stage starts, where its files are, how it runs and what it tells of it.
    *(
        "stages.command",
        "stages.paths",
        "stages.processes",
        "stages.runtime",
        "stages.tracking",
        "stages.mlflow_writer",
        "stages.mlflow_store",
    ),
    "stages.mlflow_row",
    "stages.checkpoints",
    "stages.costs",
    "stages.keys",
    # Validates what the plan holds.
    "stages.params",
    "stages.plan",
    "lofit.errors",
    "lofit.extras",
    "lofit.pages",
    # Decides when work is saved, not what it leads to: a resumed run ends with the same bytes.
    "lofit.training.checkpoint",
    # The report writes the cards.
    "lofit.adapters.card",
)
"""Modules and packages that decide no result."""


def code_hash(*roots: str) -> str:
    """SHA-256 over the code of these modules and of all project modules that they import, directly or not."""
    digest = hashlib.sha256()
    for module in sorted(closure(roots)):
        digest.update(f"{module} {module_hash(module)}\n".encode())
    return digest.hexdigest()


def closure(roots: Iterable[str]) -> set[str]:
    """`roots`, and the project modules that they import, less the neutral ones."""
    seen = set(roots)
    todo = [imported for root in seen for imported in imports(root)]
    while todo:
        module = todo.pop()
        if module not in seen and not any(f"{module}.".startswith(f"{neutral}.") for neutral in NEUTRAL):
            seen.add(module)
            todo += imports(module)
    return seen


@cache
def imports(module: str) -> tuple[str, ...]:
    """Project modules that a module imports, wherever in it, but not for type checkers alone."""
    found: set[str] = set()
    for node in _nodes(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name for name in names if "." in name and _file(name) is not None}
    return tuple(sorted(found))


@cache
def module_hash(module: str) -> str:
    """SHA-256 over the syntax of a module."""
    return hashlib.sha256("\n".join(_shape(_tree(module))).encode()).hexdigest()


def _file(module: str) -> Path | None:
    """The file of a project module; None for anything else."""
    path = Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _tree(module: str) -> ast.AST:
    file = _file(module)
    assert file is not None, module
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes in it, less what cannot decide a result."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not _is_silent(child, node):
            yield from _nodes(child)


def _shape(node: ast.AST) -> Iterator[str]:
    """What `_nodes` finds, with the values of its fields; the same for every version of Python."""
    for part in _nodes(node):
        values = [
            f"{name}={value!r}"
            for name, value in ast.iter_fields(part)
            if isinstance(value, str | int | float | complex | bytes) and name not in ("kind", "type_comment")
        ]
        yield " ".join([type(part).__name__, str(sum(1 for _ in ast.iter_child_nodes(part))), *values])


def _is_silent(node: ast.AST, parent: ast.AST) -> bool:
    """Whether a node decides nothing: a docstring or other bare text, a type checker's block, a field of settings."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    of_settings = isinstance(parent, ast.ClassDef) and any("Settings" in ast.unparse(base) for base in parent.bases)
    return of_settings and isinstance(node, ast.AnnAssign)
