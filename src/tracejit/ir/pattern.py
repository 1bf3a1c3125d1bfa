"""Patterns over nodes, written as text, and the rewrite rules made of them.

`"mul(x, 1) | mul(1, x)"` matches a product with the number one and binds `x`. Names bind nodes, a name given twice
must be the same node, and attributes are bound by keyword: `"reshape(reshape(x, shape=a), shape=b)"`. `*xs` binds all
operands of a variadic operation. A number matches that Python number, of the same sign, whatever its type.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.node import CONST, SCALAR, Node, apply, const, const_value
from tracejit.ops.record import Op, ops

Bindings = dict[str, Any]
Matcher = Callable[[Node, Bindings], bool]

# Soundness: same bits for all operands (NaN payloads apart); right for finite operands but for the sign of zero;
# right in real arithmetic only.
EXACT, FINITE, FAST = "exact", "finite", "fast"
LEVELS = (EXACT, FINITE, FAST)
_ALL_KINDS = "bif"


def same_number(a: Any, b: Any) -> bool:
    """Whether two Python numbers are equal, the sign of zero included."""
    return bool(a == b) and math.copysign(1, a) == math.copysign(1, b)


def _number(tree: ast.expr) -> Any:
    """The number that a part of a pattern is, or None."""
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub) and isinstance(tree.operand, ast.Constant):
        return -tree.operand.value  # type: ignore[operator]
    return tree.value if isinstance(tree, ast.Constant) else None


def _matcher(tree: ast.expr) -> Matcher:
    value = _number(tree)
    if value is not None:
        return lambda node, found: node.op == CONST and same_number(const_value(node), value)
    if isinstance(tree, ast.Name):
        name = tree.id
        return lambda node, found: found.setdefault(name, node) is node
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return _call_matcher(tree, getattr(ops, tree.func.id))
    raise ValueError(f"not a pattern: {ast.unparse(tree)}")


def _call_matcher(tree: ast.Call, op: Op) -> Matcher:
    attrs = [(op.attrs.index(str(k.arg)), k.value) for k in tree.keywords]
    names = [(i, v.id) for i, v in attrs if isinstance(v, ast.Name)]
    if len(names) != len(attrs):
        raise ValueError(f"attributes are bound to names: {ast.unparse(tree)}")
    if len(tree.args) == 1 and isinstance(tree.args[0], ast.Starred) and isinstance(tree.args[0].value, ast.Name):
        rest = tree.args[0].value.id

        def match_all(node: Node, found: Bindings) -> bool:
            if node.op is not op or found.setdefault(rest, node.args) is not node.args:
                return False
            return all(found.setdefault(name, node.attrs[i]) == node.attrs[i] for i, name in names)

        return match_all
    parts = [_matcher(a) for a in tree.args]
    if len(parts) != len(op.params):
        raise ValueError(f"{op.name} takes {len(op.params)} operands: {ast.unparse(tree)}")

    def match(node: Node, found: Bindings) -> bool:
        if node.op is not op:
            return False
        for part, operand in zip(parts, node.args, strict=True):
            if not part(operand, found):
                return False
        return not names or all(found.setdefault(name, node.attrs[i]) == node.attrs[i] for i, name in names)

    return match


def _alternatives(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return [*_alternatives(tree.left), *_alternatives(tree.right)]
    return [tree]


def _builder(tree: ast.expr) -> Callable[[Bindings], Any]:
    value = _number(tree)
    if value is not None:
        number = const(value)
        return lambda found: number
    if isinstance(tree, ast.Name):
        name = tree.id
        return lambda found: found[name]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        op = getattr(ops, tree.func.id)
        parts = [_builder(a) for a in tree.args]
        attrs = [(str(k.arg), _builder(k.value)) for k in tree.keywords]
        return lambda found: apply(op, *(p(found) for p in parts), **{k: v(found) for k, v in attrs})
    raise ValueError(f"not a replacement: {ast.unparse(tree)}")


def _by_parameters(function: Callable[..., Any]) -> Callable[[Bindings], Any]:
    """A function called with the bindings that its parameters name."""
    names = tuple(inspect.signature(function).parameters)
    return lambda found: function(*(found[n] for n in names))


def _root(tree: ast.expr) -> Op:
    """The operation at the root of a pattern."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return getattr(ops, tree.func.id)
    raise ValueError(f"not a pattern: {ast.unparse(tree)}")


def parse(text: str) -> ast.expr:
    """The tree of a pattern or a replacement."""
    return ast.parse(text, mode="eval").body


@dataclass(frozen=True, eq=False)
class Rule:
    """What matches `pattern` is replaced.

    `replacement` is text over the same names, or a function whose parameters are names of the pattern (`out` is the
    node itself) and which gives a node, or None where the rule does not apply. A number, or a node of smaller shape,
    stands for its repetition. `kinds` are the kinds of the first tensor operand's type: b, i, f. `numbers` are names of
    operands at the root that must be numbers. `examples` give shapes, types or numbers of the names, for the tests that
    are made from each rule.
    """

    name: str
    soundness: str
    pattern: str
    replacement: str | Callable[..., Any]
    kinds: str = _ALL_KINDS
    numbers: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ({},)
    trees: tuple[Any, ...] = field(init=False, repr=False)
    """Those of the pattern's alternatives."""
    matchers: tuple[tuple[Op, Matcher], ...] = field(init=False, repr=False)
    build: Callable[[Bindings], Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.soundness not in LEVELS:
            raise ValueError(f"rule '{self.name}': soundness is one of {LEVELS}, got '{self.soundness}'")
        trees = tuple(_alternatives(parse(self.pattern)))
        matchers = tuple((_root(tree), _matcher(tree)) for tree in trees)
        build = (
            _builder(parse(self.replacement))
            if isinstance(self.replacement, str)
            else _by_parameters(self.replacement)
        )
        object.__setattr__(self, "trees", trees)
        object.__setattr__(self, "matchers", matchers)
        object.__setattr__(self, "build", build)

    def may_match(self, root: Op | str, *operands: Op | str) -> bool:
        """Whether the pattern matches some node of this operation on operands of such operations."""
        return any(
            op is root and all(map(self._may_be, tree.args, operands))
            for tree, (op, _) in zip(self.trees, self.matchers, strict=True)
        )

    def _may_be(self, part: ast.expr, op: Op | str) -> bool:
        """Whether a part of the pattern matches some node of this operation."""
        if _number(part) is not None:
            return op == CONST
        if isinstance(part, ast.Name) and part.id in self.numbers:
            return op in (CONST, SCALAR)
        return not isinstance(part, ast.Call) or _root(part) is op

    def apply(self, node: Node) -> Node | None:
        """What replaces the node, of the same shape and type; None if the rule does not apply.

        Raises: TypeError if the rule gives another type: the rule is wrong.
        """
        if self.kinds != _ALL_KINDS and kind_of(node) not in self.kinds:
            return None
        for op, match in self.matchers:
            if node.op is not op:
                continue
            found: Bindings = {"out": node}
            if match(node, found) and all(found[name].is_number for name in self.numbers):
                new = self.build(found)
                return None if new is None or new is node else _like(node, new, self)
        return None


def kind_of(node: Node) -> str:
    """The kind of the first tensor operand's type, or of the node's own: b, i or f."""
    aval = next((a.aval for a in node.args if isinstance(a.aval, Aval)), None)
    return _ALL_KINDS[(node.tensor if aval is None else aval).dtype.category]


def _like(node: Node, new: Node, rule: Rule) -> Node:
    aval = node.tensor
    if new.is_number:
        return apply(ops.full, new, shape=aval.shape, dtype=aval.dtype)
    if new.dtype is not aval.dtype:
        raise TypeError(f"rule '{rule.name}' turns {node!r} into {new!r}")
    return new if new.shape == aval.shape else apply(ops.expand, new, shape=aval.shape)


class RuleSet:
    """Rules up to a level of soundness, found by the operation at their root and those of its operands."""

    def __init__(self, rules: tuple[Rule, ...], soundness: str = EXACT) -> None:
        allowed = LEVELS[: LEVELS.index(soundness) + 1]
        self.by_op: dict[Op | str, list[Rule]] = {}
        for rule in rules:
            if rule.soundness in allowed:
                for op in {op for op, _ in rule.matchers}:
                    self.by_op.setdefault(op, []).append(rule)

    def fitting(self, around: tuple[Op | str, ...]) -> list[Rule]:
        """The rules that may apply to a node of the first of these operations whose operands are of the others."""
        return [rule for rule in self.by_op.get(around[0], ()) if rule.may_match(*around)]


def held_exactly(source: dtypes.dtype, target: dtypes.dtype) -> bool:
    """Whether every value of one type is a value of the other."""
    if source is target or source is dtypes.bool:
        return True
    if target is dtypes.bool:
        return False
    if source.is_floating_point:
        return target.is_floating_point and source.itemsize < target.itemsize
    if target.is_floating_point:
        return 8 * source.itemsize <= dtypes.significand(target)
    if source.is_signed:
        return target.is_signed and source.itemsize <= target.itemsize
    return source.itemsize < target.itemsize

