"""A graph as Python text that parses back to the same graph.

    def step(x0: f32[64, 128], x1: f32[128], s0: float):
        t0 = add(x0, x1)  # f32[64,128]  train.py:12  <linear>
        t1 = mul(t0, s0)  # f32[64,128]  train.py:13
        return t1

A node's comment holds its type, its line in the user's source and, in angle brackets, its label. Outputs that live in
an input, and names that are no identifiers, stand in a decorator: `@graph(homes={0: 1}, name='my step')`. Checks are a
statement before the last one: `check(t2, t3)`.
"""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import tokenize
from typing import Any

from tracejit import dtypes, symbols
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.node import CONST, INPUT, ITEM, SCALAR, Node, const, const_value, input, item, make, scalar
from tracejit.ops.record import ops

_BY_SHORT = {d.short: d for d in dtypes.ALL}
_KINDS = {"f": "float", "i": "int"}
_PLAIN = re.compile(r"[^\s'\"<]\S*( \S+)*")
_FIELD = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|<.*?>(?=  |$)|\S+(?: \S+)*""")


def number_text(value: Any) -> str:
    """A Python number as text that keeps its type and, of a float, its bits."""
    if not isinstance(value, float) or math.isfinite(value):
        return repr(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return "nan" if bits == 0x7FF8000000000000 else f"nan({bits:#018x})"


def value_text(value: Any) -> str:
    """An attribute as text.

    Raises: TypeError for what has no text.
    """
    if type(value) is int:
        return repr(value)
    if isinstance(value, dtypes.dtype):
        return value.short
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, tuple):
        inner = ", ".join(map(value_text, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, symbols.Size):
        return symbols.text(value)
    raise TypeError(f"an attribute of type {type(value).__name__} has no text: {value!r}")


def names_of(graph: Graph) -> dict[Node, str]:
    """The name of each node in the text; numbers stand for themselves."""
    names: dict[Node, str] = {node: f"x{k}" for k, node in enumerate(graph.inputs)}
    count = 0
    for node in graph.nodes():
        if node.op == CONST:
            names[node] = number_text(const_value(node))
        elif node.op == SCALAR:
            names[node] = f"s{node.attrs[0]}"
        elif node.op != INPUT:
            names[node] = f"t{count}"
            count += 1
    return names


def node_text(node: Node, names: dict[Node, str]) -> str:
    """The expression of a node over the names of its operands."""
    op = node.op
    if isinstance(op, str):
        return f"{names[node.args[0]]}[{node.attrs[0]}]" if op == ITEM else names[node]
    operands = [names[a] for a in node.args]
    if node.attrs:
        operands += [f"{k}={value_text(v)}" for k, v in zip(op.attrs, node.attrs, strict=True)]
    return f"{op.name}({', '.join(operands)})"


def print_graph(graph: Graph, lines: bool = True, name: str | None = None) -> str:
    """The graph as Python, under its name or another one, a node a line; without `lines` there are no types, source
    lines and labels.
    """
    names = names_of(graph)
    out = []
    extra = [f"homes={graph.homes}"] if graph.homes else []
    name = graph.name if name is None else name
    if not name.isidentifier():
        extra.append(f"name={name!r}")
    if extra:
        out.append(f"@graph({', '.join(extra)})")
    parameters: list[tuple[str, Node | None]] = [(f"x{k}: {_input_text(n)}", n) for k, n in enumerate(graph.inputs)]
    parameters += [(f"s{k}: {_KINDS[kind]}", None) for k, kind in enumerate(graph.scalars)]
    name = name if name.isidentifier() else "_"
    head = f"def {name}({', '.join(p for p, _ in parameters)}):"
    beside = lines and any(n in graph.lines or n in graph.labels for n in graph.inputs)
    if len(head) <= 120 and not beside:
        out.append(head)
    else:
        out.append(f"def {name}(")
        for text, node in parameters:
            comment = "" if node is None or not beside else _beside(graph, node)
            out.append(f"    {text}," + (f"  #{comment}" if comment else ""))
        out.append("):")
    for node in graph.nodes():
        if isinstance(node.op, str) and node.op != ITEM:
            continue
        comment = ""
        if lines:
            aval = str(node.aval) if isinstance(node.aval, Aval) else f"({', '.join(map(str, node.aval or ()))})"
            comment = f"  # {aval.replace(', ', ',')}{_beside(graph, node)}"
        out.append(f"    {names[node]} = {node_text(node, names)}{comment}")
    if graph.checks:
        out.append(f"    check({', '.join(names[o] for o in graph.checks)})")
    out.append(f"    return {', '.join(names[o] for o in graph.outputs)}".rstrip())
    return "\n".join(out) + "\n"


def _input_text(node: Node) -> str:
    aval, strides = node.tensor, node.attrs[1]
    parts = [*map(str, aval.shape)] or ["()"]
    if strides is not None:
        parts.append(f"strides({', '.join(map(str, strides))})")
    return f"{aval.dtype.short}[{', '.join(parts)}]"


def _beside(graph: Graph, node: Node) -> str:
    out = ""
    if node in graph.lines:
        line = graph.lines[node]
        out += "  " + (line if _PLAIN.fullmatch(line) else repr(line))
    if node in graph.labels:
        label = graph.labels[node]
        out += "  " + (f"<{label}>" if re.fullmatch(r"[\w.:-]+", label) else f"<{label!r}>")
    return out


def parse_graph(text: str) -> Graph:
    """The graph of a text that `print_graph` wrote, or a person, who may nest calls.

    Raises: SyntaxError naming the line of what is not understood; what typing a node raises.
    """
    tree = ast.parse(text)
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise SyntaxError("the text of a graph is one function")
    function = tree.body[0]
    name = function.name
    homes: dict[int, int] = {}
    for decorator in function.decorator_list:
        for k in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if k.arg == "name":
                name = ast.literal_eval(k.value)
            elif k.arg == "homes":
                homes = ast.literal_eval(k.value)
            else:
                raise _error(decorator, "expected homes or name")
    comments = _comments(text)
    values: dict[str, Node] = {}
    inputs: list[Node] = []
    scalars: list[str] = []
    lines: dict[Node, str] = {}
    labels: dict[Node, str] = {}
    spread = any(a.lineno != function.lineno for a in function.args.args)
    for parameter in function.args.args:
        node = _parameter(parameter, len(inputs), len(scalars))
        values[parameter.arg] = node
        if node.op == INPUT:
            inputs.append(node)
            if spread:
                _take_comment(node, comments.get(parameter.lineno, []), lines, labels)
        else:
            scalars.append(node.attrs[1])
    outputs: tuple[Node, ...] = ()
    checks: tuple[Node, ...] = ()
    for statement in function.body:
        if isinstance(statement, ast.Return):
            returned = statement.value
            parts = returned.elts if isinstance(returned, ast.Tuple) else [returned] if returned else []
            outputs = tuple(_operand(p, values) for p in parts)
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            node = _node(statement.value, values)
            values[statement.targets[0].id] = node
            _take_comment(node, comments.get(statement.lineno, [])[1:], lines, labels)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            if ast.unparse(statement.value.func) != "check":
                raise _error(statement, "expected check")
            checks += tuple(_operand(a, values) for a in statement.value.args)
        else:
            raise _error(statement, "expected an assignment, a check or a return")
    return Graph(tuple(inputs), tuple(scalars), outputs, homes, name, lines, labels, checks=checks)


def _error(tree: ast.AST, message: str) -> SyntaxError:
    return SyntaxError(f"line {getattr(tree, 'lineno', '?')}: {message}: {ast.unparse(tree)}")


def _comments(text: str) -> dict[int, list[str]]:
    """The fields of the comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: _FIELD.findall(t.string[1:].strip()) for t in tokens if t.type == tokenize.COMMENT}


def _take_comment(node: Node, fields: list[str], lines: dict[Node, str], labels: dict[Node, str]) -> None:
    for text in fields:
        if text.startswith("<"):
            inner = text[1:-1]
            labels[node] = ast.literal_eval(inner) if inner[:1] in ("'", '"') else inner
        else:
            lines[node] = ast.literal_eval(text) if text[:1] in ("'", '"') else text


def _parameter(parameter: ast.arg, inputs: int, scalars: int) -> Node:
    kind = parameter.annotation
    if isinstance(kind, ast.Name):
        for short, word in _KINDS.items():
            if kind.id == word:
                return scalar(scalars, short)
    if not isinstance(kind, ast.Subscript) or not isinstance(kind.value, ast.Name) or kind.value.id not in _BY_SHORT:
        raise _error(parameter, "expected a type such as f32[2, 3] or float")
    parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    strides = None
    if parts and isinstance(parts[-1], ast.Call):
        strides = tuple(ast.literal_eval(a) for a in parts[-1].args)
        parts = parts[:-1]
    shape = tuple(s for s in map(ast.literal_eval, parts) if s != ())
    return input(inputs, Aval(shape, _BY_SHORT[kind.value.id]), strides)


def _value(tree: ast.expr) -> Any:
    """An attribute, or a number."""
    if isinstance(tree, ast.Name):
        if tree.id in _BY_SHORT:
            return _BY_SHORT[tree.id]
        if tree.id in ("inf", "nan"):
            return float(tree.id)
    if isinstance(tree, ast.Tuple):
        return tuple(map(_value, tree.elts))
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_value(tree.operand)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "nan":
        return struct.unpack("<d", struct.pack("<Q", ast.literal_eval(tree.args[0])))[0]
    if isinstance(tree, ast.Constant):
        return tree.value
    raise _error(tree, "expected a value")


def _operand(tree: ast.expr, values: dict[str, Node]) -> Node:
    if isinstance(tree, ast.Name) and tree.id in values:
        return values[tree.id]
    if isinstance(tree, ast.Name) and tree.id not in ("inf", "nan"):
        raise _error(tree, "this name is not defined")
    called = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id != "nan"
    if called or isinstance(tree, ast.Subscript):
        return _node(tree, values)
    return const(_value(tree))


def _node(tree: ast.expr, values: dict[str, Node]) -> Node:
    if isinstance(tree, ast.Subscript):
        return item(_operand(tree.value, values), ast.literal_eval(tree.slice))
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise _error(tree, "expected a call of an operation")
    op = next((o for o in ops if o.name == tree.func.id), None)
    if op is None:
        raise _error(tree, "there is no such operation")
    attrs = op.pack({str(k.arg): _value(k.value) for k in tree.keywords})
    return make(op, tuple(_operand(a, values) for a in tree.args), attrs)
