"""The syntax of the small language in which kernels are written; see `lowering`.

In: a kernel's text, or a function that kernels call. Out: its definition, and what can be told from that alone.
Must not know: LLVM, or what a name stands for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections import Counter
from types import FunctionType

from tracejit.runtime.scalars import Unsupported


def definition(text: str) -> ast.FunctionDef:
    """The function that a text defines, and nothing else.

    Raises: Unsupported if it is something else.
    """
    try:
        body = ast.parse(textwrap.dedent(text)).body
    except SyntaxError as error:
        raise Unsupported(str(error)) from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        raise Unsupported("text that is not one function")
    return body[0]


@functools.cache
def definition_of(function: FunctionType) -> ast.FunctionDef:
    """The syntax of a function that kernels call.

    Raises: Unsupported if its text is not to be found.
    """
    try:
        return definition(inspect.getsource(function))
    except (OSError, TypeError):
        raise Unsupported(f"{function.__name__} without its text") from None


def parameters(function: ast.FunctionDef) -> list[str]:
    """The names of a function's parameters.

    Raises: Unsupported if they are more than names.
    """
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs or arguments.defaults:
        raise Unsupported("parameters other than plain names")
    return [argument.arg for argument in arguments.args]


def _names(node: ast.AST, found: list[ast.Name]) -> list[ast.Name]:
    """The names in some syntax, after those that were found. `ast.walk` takes three times as long."""
    kind = type(node)
    if kind is ast.Name:
        found.append(node)  # type: ignore[arg-type]
    elif kind is not ast.Constant:
        for name in node._fields:
            part = getattr(node, name)
            for inner in part if type(part) is list else (part,):
                if isinstance(inner, ast.AST):
                    _names(inner, found)
    return found


def settled(function: ast.FunctionDef) -> frozenset[str]:
    """Names that need no memory: assigned in one place, and read only behind it where it has been passed.

    LLVM would find them, too, but takes as long as we to read each load and store.
    """
    stores = Counter(argument.arg for argument in function.args.args)
    loose: set[str] = set()

    def read(node: ast.AST | None, known: set[str]) -> None:
        if node is not None:
            loose.update(n.id for n in _names(node, []) if isinstance(n.ctx, ast.Load) and n.id not in known)

    def store(target: ast.AST, known: set[str]) -> None:
        for node in _names(target, []):
            stores[node.id] += 1
            known.add(node.id)

    def go_through(body: list[ast.stmt], known: set[str]) -> None:
        for statement in body:
            if isinstance(statement, ast.If | ast.While | ast.For):
                read(statement.iter if isinstance(statement, ast.For) else statement.test, known)
                inner = set(known)
                if isinstance(statement, ast.For):
                    store(statement.target, inner)
                go_through(statement.body, inner)
                go_through(statement.orelse, set(known))
            elif isinstance(statement, ast.Assign):
                read(statement.value, known)
                for target in statement.targets:
                    store(target, known)
            elif isinstance(statement, ast.AugAssign):
                read(statement.value, known)
                loose.update(node.id for node in _names(statement.target, []))
            else:
                read(statement, known)

    go_through(function.body, set(stores))
    return frozenset(name for name, count in stores.items() if count == 1 and name not in loose)


@functools.cache
def settled_in(function: FunctionType) -> frozenset[str]:
    """The names of a function that kernels call."""
    return settled(definition_of(function))
