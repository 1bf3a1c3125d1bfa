"""`explain`: each kind of event names its line, a reason, its cost and a fix; text, dict and HTML say the same."""

from __future__ import annotations

import inspect
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import tracejit as tj
from tracejit.nn import functional as F
from tracejit.tools.advice import fix
from tracejit.tools.explain import SECTIONS, explain
from tracejit.tools.outline import fold
from tracejit.trace.account import NOTES, Account
from tracejit.trace.compiled import region_of
from tracejit.trace.region import IN_A_ROW

SNIPPETS = {}


def arr(seed, *shape):
    return tj.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def snippet(kind, reason, advice, section=None, error=None, **options):
    """A function that gives a function and its calls' arguments; the line that is to be named says `# here`."""

    def enter(make):
        SNIPPETS[make.__name__] = (make, kind, reason, advice, section, error, options)
        return make

    return enter


def here(function):
    lines, first = inspect.getsourcelines(function)
    (found,) = [first + k for k, line in enumerate(lines) if "# here" in line]
    return f"{__file__}:{found}"


def told_of(make, error=None, **options):
    function, args = make()
    f = tj.compile(function, **options)
    for given in args:
        try:
            f(*given)
        except Exception as e:
            if error is None or not isinstance(e, error):
                raise
    return explain(f)


@snippet("resize", r"was float32\[4, 3\], now float32\[2, 3\]", "nothing to do")
def a_ragged_batch():
    def f(x):
        return x.exp()  # here

    return f, [(arr(0, 4, 3),)] * 4 + [(arr(0, 2, 3),)] * 3


@snippet("side exit", r"was float32\[3\], now float64\[3\]", "types equal")
def another_type():
    def f(x):
        return x.exp()  # here

    return f, [(arr(0, 3),)] * 4 + [(arr(0, 3).double(),)]


@snippet("side exit", "required no gradients, now it does", "requires_grad_")
def requires_grad_later():
    def f(x):
        return x.exp()  # here

    return f, [(arr(0, 3),)] * 4 + [(arr(0, 3).requires_grad_(),)]


@snippet("side exit", "was contiguous, now it has strides of .* bytes", r"contiguous\(\)")
def another_layout():
    def f(x):
        return x.exp()  # here

    return f, [(arr(0, 3, 4),)] * 4 + [(arr(0, 4, 3).T,)]


@snippet("side exit", "gradients were recorded, now they are not", "one function for training")
def another_grad_mode():
    w = arr(0, 3).requires_grad_()

    def f(x, on):
        with tj.set_grad_enabled(on):
            return x * w  # here

    return f, [(arr(0, 3), True)] * 4 + [(arr(0, 3), False)]


@snippet("side exit", "reduction .* was 'mean', now 'sum'", "each value is a branch")
def another_attribute():
    def f(x, y, how):
        return F.cross_entropy(x, y, reduction=how)  # here

    return f, [(arr(0, 3, 4), tj.tensor([0, 1, 2]), "mean")] * 4 + [(arr(0, 3, 4), tj.tensor([0, 1, 2]), "sum")]


@snippet("side exit", r"was a float \(2.0\), now a whole number \(2\)", "same type in each call")
def another_kind_of_number():
    def f(x, s):
        return x * s  # here

    return f, [(arr(0, 3), 2.0)] * 4 + [(arr(0, 3), 2)]


@snippet("side exit", "and Python computed with it", "as a tensor")
def a_number_that_python_computes_with():
    y = tj.tensor([0, 1, 2])

    def f(x, smoothing):
        return F.cross_entropy(x, y, label_smoothing=smoothing)  # here

    return f, [(arr(0, 3, 4), 0.0)] * 4 + [(arr(0, 3, 4), 0.25)]


@snippet("side exit", r"\.grad of the leaf float32\[3\] .* was None, now it is there", "zero_grad")
def gradients_not_reset():
    w = arr(0, 3).requires_grad_()

    def f(x, reset):
        if reset:
            w.grad = None
        (x * w).sum().backward()  # here

    return f, [(arr(0, 3), True)] * 4 + [(arr(0, 3), False)]


@snippet("side exit", "the tree has exp .*, now sin", "one way")
def a_branch():
    def f(x, flag):
        if flag:
            return x.exp()
        return x.sin()  # here

    return f, [(arr(0, 3), True)] * 4 + [(arr(0, 3), False)]


@snippet("side exit", "the region ended here before, now exp", "few ways")
def a_longer_way():
    def f(x, more):
        y = x * 2
        return y.exp() if more else y  # here

    return f, [(arr(0, 3), False)] * 4 + [(arr(0, 3), True)]


@snippet("side exit", "was another tensor than the other arguments, now one of them", r"clone\(\)")
def the_same_tensor_twice():
    x = arr(0, 3)

    def f(x, y):
        return x + y  # here

    return f, [(arr(0, 3), arr(1, 3))] * 4 + [(x, x)]


@snippet("cut", "a value was read", "return the tensor")
def an_item():
    def f(x):
        s = x.sum().item()  # here
        return x * s

    return f, [(arr(0, 3),)] * 5


@snippet("cut", "a value was read", r"tj\.where\(\)")
def a_branch_on_a_value():
    def f(x):
        if x.sum() > 0:  # here
            return x * 2
        return x - 1

    return f, [(arr(i, 3),) for i in range(8)]


@snippet("cut", "works on memory", "in front of or behind")
def a_size_that_depends_on_values():
    def f(x):
        y = x * 2
        return y.nonzero()  # here

    return f, [(arr(0, 3),)] * 5


@snippet("cut", "a view from outside is changed in place", "take the view in the function", "runs eagerly")
def a_view_from_outside_changed_in_place():
    def f(v):
        v.add_(1)  # here
        return v * 2

    return f, [(arr(0, 3, 2)[0],) for _ in range(5)]


@snippet("cut", "memory was changed in place through another tensor", "take views and detached tensors in the function")
def a_view_from_outside_of_changed_memory():
    def f(x, v):
        x.mul_(2)
        return v + 1  # here

    return f, [(x, x.reshape(-1)) for x in [arr(i, 3, 2) for i in range(5)]]


@snippet("cut", "a gradient hook was registered", "behind backward", "runs eagerly")
def a_gradient_hook():
    w = arr(0, 3).requires_grad_()
    w.register_hook(lambda g: g * 2)

    def f(x):
        (x * w).sum().backward()  # here

    return f, [(arr(0, 3),)] * 5


@snippet("cut", "has no kernel for these types", "cast the operands", "runs eagerly")
def a_type_without_a_kernel():
    def f(x):
        return tj.fmod(x * 2, 3)  # here

    return f, [(tj.ones(2, 2).to(tj.int32),)] * 5


@snippet("eager", "calls took new ways", "compile smaller functions")
def never_the_same_shape():
    def f(x):
        return tj.cat(x)  # here

    return f, [([arr(0, 3)] * i,) for i in range(1, 80)]


@snippet("eager", "its program refused", "check indices before the call", error=IndexError)
def an_index_computed_inside():
    def f(x):
        y = tj.ones(5).index_select(0, (x * 2).long())
        return y.sum().item()  # here

    return f, [(tj.tensor([0.5]),)] * 4 + [(tj.tensor([9.0]),)]


@snippet("compile", "segment that ends because a value was read", "done once")
def a_compilation():
    def f(x):
        return (x * 2).sum().item()  # here

    return f, [(arr(0, 3),)] * 5


@snippet("compile", "again, as Python keeps other values", "same results in each call")
def values_kept():
    kept = []

    def f(x, keep):
        y = x * 2
        if keep:
            kept.append(y)
        y = y.sum()
        return y.item()  # here

    return f, [(arr(0, 3), i > 4) for i in range(8)]


@snippet("verification", "eager's, bit for bit", "leave verify= out", verify="first")
def a_verification():
    def f(x):
        return (x * 2).sum().item()  # here

    return f, [(arr(0, 3),)] * 5


@pytest.mark.parametrize("name", SNIPPETS)
def test_each_event_names_line_reason_cost_and_fix(name):
    make, kind, reason, advice, section, error, options = SNIPPETS[name]
    told = told_of(make, error, **options)
    found = [n for n in told.notes if n["kind"] == kind and re.search(reason, n["reason"])]
    assert found, [(n["kind"], n["reason"]) for n in told.notes]
    (note,) = [n for n in found if n["line"] == here(make)]
    assert re.search(advice, note["fix"]), note["fix"]
    assert note["count"] >= 1
    assert note["cost"]
    title = section or dict(SECTIONS)[kind]
    assert note in dict(told.sections())[title]
    text = str(told)
    assert f"{title}:" in text
    assert f"{note['reason']}\n      {note['cost']}; fix: {note['fix']}" in text
    assert all(n["fix"] and n["reason"] for n in told.notes)
    assert json.loads(json.dumps(told.to_dict()))["notes"] == told.notes


def test_side_exits_cuts_eager_parts_and_compilations_have_a_cost():
    for name in ("an_item", "never_the_same_shape", "an_index_computed_inside", "a_compilation"):
        make, kind, reason, _, _, error, options = SNIPPETS[name]
        told = told_of(make, error, **options)
        assert sum(n["seconds"] for n in told.notes if n["kind"] == kind and re.search(reason, n["reason"])) > 0, name


def test_equal_events_are_one_with_their_number():
    told = told_of(an_item)
    (note,) = [n for n in told.notes if n["kind"] == "cut"]
    assert note["count"] == 4
    assert note["cost"].startswith("4 times, ")
    told = told_of(never_the_same_shape)
    (note,) = [n for n in told.notes if n["kind"] == "eager"]
    assert note["count"] == told.calls["side exits"] - IN_A_ROW
    assert told.calls["side exits"] == 77


def test_notes_are_bounded():
    account = Account()
    for i in range(100_000):
        account.note("cut" if i % 2 else "side exit", f"train.py:{i}", "a value was read", 0.5)
    assert len(account.notes) == NOTES + 2
    assert sum(n.count for n in account.notes) == 100_000
    assert sum(n.seconds for n in account.notes) == 50_000
    f = tj.compile(lambda x: (x * 2).sum().item())
    for _ in range(3_000):
        f(tj.ones(1))
    assert len(region_of(f).notes) <= 3


def test_obstacles_are_told():
    told = explain(tj.compile(lambda x: x))
    assert told.replay == "not tried yet"
    assert "what stands between this function and replay:\n  not tried yet" in str(told)
    assert explain(tj.compile(lambda x: x, mode="follow")).replay == "mode='follow' does not ask for it"
    f = tj.compile(lambda x: x)
    region_of(f).prover.obstacles = [("train.py:12", "<time.time> may give another value", "read the clock & pass it")]
    told = explain(f)
    assert "train.py:12: <time.time> may give another value\n      fix: read the clock & pass it" in str(told)
    assert told.to_dict()["obstacles"][0]["line"] == "train.py:12"
    assert "&lt;time.time&gt; may give another value" in told._repr_html_()
    region_of(f).prover.obstacles = [("train.py:12", "an exception is raised: KeyError", "")]
    assert explain(f).obstacles[0]["fix"] == "raise before the operations, or outside of the function"
    region_of(f).prover.obstacles = []
    region_of(f).calls.replayed = 3
    assert explain(f).replay == "nothing: 3 call(s) were replayed"
    assert explain(f).calls["replayed"] == 3


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "name", ["a_branch", "a_ragged_batch", "a_view_from_outside_changed_in_place", "a_branch_on_a_value"]
)
def test_html_is_well_formed(name):
    told = told_of(SNIPPETS[name][0])
    told.name = "<script>&"
    page = told._repr_html_()
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert {"table", "details", "pre", "h4"} <= parser.tags
    assert "script" not in parser.tags
    assert "&lt;script&gt;&amp;" in page


def test_tree_has_the_users_lines_and_folds_loops():
    layers = [arr(i, 3, 3) for i in range(6)]

    def f(x, flag):
        for w in layers:
            x = x @ w
            x = x.relu()
        if flag:
            x = x.exp()
        return x.sum()

    g = tj.compile(f, mode="follow")
    for i in range(10):
        g(arr(0, 3, 3), i in (5, 6))
    tree = explain(g).tree
    lines = tree.splitlines()
    assert lines[0] == "6 times:"
    assert re.fullmatch(r"  matmul +\S*test_explain\.py:\d+ +x = x @ w", lines[1])
    assert lines[2].endswith("x = x.relu()")
    assert lines[3].startswith("  or branch 1: exp (")
    assert lines[-1] == "end"
    at = lines.index("branch 1:")
    assert lines[at + 1].endswith("x = x.exp()")
    assert tree.count("return x.sum()") == 2


def test_fold():
    assert fold([]) == []
    assert fold(["a", "a", "a"]) == [(3, ["a"])]
    assert fold(["a", "b", "a", "b", "c"]) == [(2, ["a", "b"]), (1, ["c"])]
    rows = [str(i % 7) for i in range(700)]
    assert fold(rows) == [(100, [str(i) for i in range(7)])]


def test_every_kind_has_a_fix():
    for kind, _ in SECTIONS:
        assert fix(kind, "a reason that nobody knows") != ""


def test_a_function_that_never_ran():
    told = explain(tj.compile(lambda x: x))
    assert str(told).startswith("<lambda>: 0 calls\n")
    assert told.tree == ""
    json.dumps(told.to_dict())
    parser = Balanced()
    parser.feed(told._repr_html_())
    assert parser.open == []
