"""Rules of the house that no linter knows: import places, names, sizes, docstrings, what importing costs."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tracejit"
SOURCES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_LINES = 600
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "stuff"}
PYTORCH_NAMES = {PACKAGE / "nn" / "utils"}
"""Names that are PyTorch's own and kept because users know them."""


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def place(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["tracejit"] if node.level else [node.module or ""]
    return []


def submodules() -> set[str]:
    found = {file.stem for file in PACKAGE.glob("*.py")} | {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    return found - {"__init__"}


def names_front_door(node: ast.AST) -> bool:
    """`import tracejit` or `from tracejit import name` where the name is not a module of its own."""
    if isinstance(node, ast.Import):
        return any(alias.name == "tracejit" for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module == "tracejit":
        return any(alias.name not in submodules() for alias in node.names)
    return False


def public_definitions(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and public methods of public classes that override nothing known."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        if any(text.endswith((".setter", ".deleter", "overload")) for text in decorators):
            continue
        yield f"{owner}{node.name}", node


def test_no_import_of_the_project_inside_a_function() -> None:
    found = [
        place(file, inner)
        for file in SOURCES
        for function in ast.walk(tree(file))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(function)
        if any(name.split(".")[0] == "tracejit" for name in imported(inner))
    ]
    assert not found, f"imports inside functions: {found}"


def test_the_library_does_not_import_its_own_front_door() -> None:
    """`import tracejit` inside a layer would make every layer import every other; only the edges may."""
    edges = ("tools", "cli.py", "onnx")
    found = [
        place(file, node)
        for file in SOURCES
        if file.relative_to(PACKAGE).parts[0] not in edges
        for node in ast.walk(tree(file))
        if names_front_door(node)
    ]
    assert not found, f"imports of the package's root: {found}"


@pytest.mark.parametrize("file", SOURCES + BENCHMARKS + TESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_say_something(file: Path) -> None:
    parents = [parent for parent in (file, *file.parents) if ROOT in parent.parents]
    bad = [p for p in parents if p.stem.lower() in EMPTY_NAMES and p not in PYTORCH_NAMES]
    assert not bad, f"{bad[0].relative_to(ROOT)}: the name says nothing"


def test_files_stay_small() -> None:
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES + BENCHMARKS + TESTS}
    large = {str(file.relative_to(ROOT)): size for file, size in sizes.items() if size > MAX_LINES}
    assert not large, f"files over {MAX_LINES} lines: {large}"


def test_public_definitions_have_docstrings() -> None:
    found = [
        f"{place(file, node)} {name}"
        for file in SOURCES
        for name, node in [("module", tree(file)), *public_definitions(tree(file).body)]
        if ast.get_docstring(node) is None
    ]
    assert not found, "no docstring: " + ", ".join(found)


def test_exceptions_are_not_swallowed() -> None:
    found = [
        place(file, node)
        for file in SOURCES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler)
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not found, f"exceptions that vanish: {found}"


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in SOURCES + BENCHMARKS
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not found, f"unfinished: {found}"


def test_every_package_says_what_it_must_not_know() -> None:
    packages = [file for file in PACKAGE.glob("*/__init__.py") if file.parent.name not in ("nn", "optim", "data")]
    silent = [
        str(file.relative_to(ROOT))
        for file in packages
        if "must not know" not in (ast.get_docstring(tree(file)) or "").lower()
    ]
    assert not silent, f"packages that do not say what they must not know: {silent}"


def test_layers_are_all_in_the_contract() -> None:
    """A new module cannot stay outside the layer table."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    listed = {re.sub(r"[()\s]", "", name) for layer in contract["layers"] for name in layer.split("|")}
    assert submodules() <= listed, f"not in the layer table: {submodules() - listed}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return done.stdout.strip()


def test_importing_brings_only_the_runtime_dependencies() -> None:
    heavy = ("torch", "jax", "sklearn", "matplotlib", "tqdm", "mpmath", "pytest", "numba.cuda")
    loaded = run("import sys, tracejit; print(*sys.modules)").split()
    assert not [name for name in heavy if name in loaded]
    assert importlib.util.find_spec("tracejit") is not None
