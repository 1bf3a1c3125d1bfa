"""Every rule, tested from itself: its left side and what it makes of it compute the same."""

from __future__ import annotations

import ast
import itertools
from typing import Any

import numpy as np
import pytest

from tests.ops.text_runner import run_text
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ir.graph import Graph
from tracejit.ir.interpret import interpret, oracle
from tracejit.ir.node import Node, apply, const, input
from tracejit.ir.pattern import EXACT, FAST, Rule, RuleSet, held_exactly, same_number
from tracejit.ops.record import ops
from tracejit.passes import parts, simplify, views

RULES = (*views.RULES, *parts.RULES, *simplify.RULES)
TYPES = {
    "b": (dtypes.bool,),
    "i": (dtypes.int32, dtypes.int8, dtypes.uint8),
    "f": (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16),
}
SPECIALS = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-310, -1e-40, 6e-8, 65504.0, 3.4e38, 1e300]
FINITES = [1.0, -1.0, 0.5, 3.25, -7.5, 100.0]


class Left:
    """The left side of a rule, built from an example."""

    def __init__(self, tree: ast.expr, example: dict[str, Any], dtype: dtypes.dtype) -> None:
        self.example, self.dtype = example, dtype
        self.inputs: list[Node] = []
        self.named: dict[str, Any] = {}
        self.root = self.build(tree)

    def variable(self, spec: Any) -> Node:
        if isinstance(spec, (bool, int, float)):
            return self.number(spec)
        shape, dtype = spec if len(spec) == 2 and isinstance(spec[0], tuple) else (spec, self.dtype)
        self.inputs.append(input(len(self.inputs), Aval(shape, dtype)))
        return self.inputs[-1]

    def number(self, value: Any) -> Node:
        # Fronts give bools nothing but bools: numbers of another kind would have made them integers.
        return const(bool(value) if self.dtype is dtypes.bool else value)

    def value(self, tree: ast.expr) -> Any:
        if isinstance(tree, ast.Starred):
            return [self.variable(spec) for spec in self.example[tree.value.id]]
        if isinstance(tree, ast.Name):
            if tree.id not in self.named:
                self.named[tree.id] = self.variable(self.example.get(tree.id, (400,)))
            return self.named[tree.id]
        if isinstance(tree, ast.Call):
            return self.build(tree)
        return self.number(ast.literal_eval(tree))

    def build(self, tree: Any) -> Node:
        op = getattr(ops, tree.func.id)
        args = [self.value(a) for a in tree.args]
        args = args[0] if args and isinstance(args[0], list) else args
        attrs = {str(k.arg): self.example.get(k.value.id, dtypes.bool) for k in tree.keywords}
        attrs |= {a: self.example.get(a, {"shape": (400,)}.get(a)) for a in op.attrs if a not in attrs}
        return apply(op, *args, **attrs)


def arrays(nodes: list[Node], pool: list[float], tree: ast.expr) -> list[Any]:
    """Values for inputs: pairs of all special values for the floats, random ones for the rest; small ones if some pick.
    """
    picks = any(isinstance(part, ast.Name) and part.id == "take" for part in ast.walk(tree))
    rng = np.random.default_rng(5)
    out = []
    for k, node in enumerate(nodes):
        n = node.tensor.numel
        if node.dtype.is_floating_point:
            pairs = np.array(list(itertools.product(pool, pool)))
            flat = np.resize(pairs[:, k % 2], n) if node.shape == (400,) else rng.choice(pool, n)
        elif node.dtype is dtypes.bool:
            flat = rng.integers(0, 2, n)
        else:
            info = np.iinfo(node.dtype.np)
            flat = rng.choice([0, 1, 2, 3] if picks else [0, 1, 2, 3, info.min, info.max], n)
        with np.errstate(all="ignore"):
            out.append(np.asarray(flat).astype(node.dtype.np).reshape(node.shape))
    return out


def samples(rule: Rule) -> list[tuple[ast.expr, dict[str, Any], dtypes.dtype]]:
    return [
        (tree, dict(example), dtype)
        for tree in rule.trees
        for example in rule.examples
        for kind in rule.kinds
        if kind in getattr(ops, tree.func.id).kinds
        for dtype in TYPES[kind]
    ]


def one_nan(x: Any) -> Any:
    """NaN without its sign and payload, which are exempt."""
    return np.where(np.isnan(x), np.array(np.nan, x.dtype), x) if x.dtype.kind in "fV" else x


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_both_sides_compute_the_same(rule: Rule) -> None:
    applied = 0
    for tree, example, dtype in samples(rule):
        if rule.soundness != EXACT and dtype in dtypes.HALVES:
            continue
        left = Left(tree, example, dtype)
        right = rule.apply(left.root)
        if right is None:
            continue
        applied += 1
        assert right.aval == left.root.aval
        given = arrays(left.inputs, SPECIALS if rule.soundness == EXACT else FINITES, tree)
        graph = Graph(tuple(left.inputs), (), (left.root, right))
        # NumPy's functions, and what kernels are made of: they may choose another zero where two are equal.
        for run in (oracle, run_text):
            a, b = interpret(graph, given, run=run)
            if rule.soundness == EXACT:
                assert one_nan(a).tobytes() == one_nan(b).tobytes(), (ast.unparse(tree), dtype, run)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4 if rule.soundness == FAST else 0)
    assert applied, "the rule applies to none of its examples"


def replaced(rules: RuleSet, node: Node) -> Node | None:
    """What the first of the rules that are found for a node makes of it."""
    fitting = rules.fitting((node.op, *[a.op for a in node.args]))
    return next((new for rule in fitting if (new := rule.apply(node)) is not None), None)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_rule_is_found_by_its_root(rule: Rule) -> None:
    tree, example, dtype = samples(rule)[0]
    node = Left(tree, example, dtype).root
    assert replaced(RuleSet((rule,), FAST), node) is not None or rule.apply(node) is None


def test_no_two_rules_have_one_name() -> None:
    names = [r.name for r in RULES]
    assert len(names) == len(set(names))


def test_strict_mode_leaves_out_what_is_not_exact() -> None:
    x = input(0, Aval((3,), dtypes.float32))
    zero = apply(ops.mul, x, 0)
    assert replaced(RuleSet(simplify.RULES, EXACT), zero) is None
    assert replaced(RuleSet(simplify.RULES, FAST), zero) is apply(ops.full, 0, shape=(3,), dtype=dtypes.float32)


@pytest.mark.parametrize(("computed", "classes", "looks_up"), [(False, 4, True), (True, 4, False), (False, 5, False)])
def test_what_is_chosen_by_place_is_looked_up_if_it_is_in_memory(computed: bool, classes: int, looks_up: bool) -> None:
    (rule,) = (r for r in simplify.RULES if r.name == "sum of what is chosen by its place")
    x, index = input(0, Aval((9, 4), dtypes.float32)), input(1, Aval((9,), dtypes.int64))
    x = apply(ops.exp, x) if computed else x
    places = apply(ops.reshape, apply(ops.take, apply(ops.iota, size=classes), index, dim=0), shape=(9, 1))
    hit = apply(ops.eq, apply(ops.reshape, apply(ops.iota, size=4), shape=(1, 4)), places)
    new = rule.apply(apply(ops.sum, apply(ops.where, hit, x, 0.0), dim=1))
    assert (new is not None) is looks_up


def test_numbers_match_by_value_and_sign() -> None:
    assert same_number(1, 1.0)
    assert same_number(True, 1)
    assert not same_number(0, -0.0)
    assert not same_number(float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("source", "target", "holds"),
    [
        (dtypes.bool, dtypes.int8, True),
        (dtypes.int32, dtypes.float32, False),
        (dtypes.int16, dtypes.float32, True),
        (dtypes.uint8, dtypes.int8, False),
        (dtypes.uint8, dtypes.int16, True),
        (dtypes.int8, dtypes.uint8, False),
        (dtypes.float16, dtypes.float64, True),
        (dtypes.float16, dtypes.bfloat16, False),
        (dtypes.bfloat16, dtypes.float16, False),
        (dtypes.bfloat16, dtypes.float32, True),
        (dtypes.float64, dtypes.float32, False),
        (dtypes.int8, dtypes.bool, False),
        (dtypes.int64, dtypes.float64, False),
    ],
)
def test_what_a_type_holds(source: dtypes.dtype, target: dtypes.dtype, holds: bool) -> None:
    assert held_exactly(source, target) is holds


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("add(x)", "add takes 2 operands"), ("1 < 2", "not a pattern"), ("sum(x, dim=3)", "are bound to names")],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, message: str) -> None:
    with pytest.raises((ValueError, AttributeError), match=message):
        Rule("wrong", EXACT, pattern, "x")


def test_a_rule_that_changes_the_type_is_found() -> None:
    rule = Rule("wrong", EXACT, "cast(x, dtype=_d)", "x")
    x = input(0, Aval((3,), dtypes.float32))
    with pytest.raises(TypeError, match="rule 'wrong' turns"):
        rule.apply(apply(ops.cast, x, dtype=dtypes.int32))
