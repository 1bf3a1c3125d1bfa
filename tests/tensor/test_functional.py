"""The functions of neural networks beside PyTorch: values, types, gradients, exceptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, compare, draw, functions
from tracejit.tensor import functional

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EXTREMES = np.float32([0, -0.0, 1, -1, 3, -3, 6, -6, 0.5, 25, -25, 100, -100])
ACTIVATIONS = """relu(x)|relu6(x)|gelu(x)|gelu(x, approximate="tanh")|gelu(x, approximate="q")|silu(x)|leaky_relu(x)
leaky_relu(x, 0.2)|elu(x)|elu(x, 0.7)|selu(x)|celu(x)|celu(x, 2.0)|celu(x, 0.0)|softplus(x)|softplus(x, 2.0, 5.0)
softsign(x)|hardtanh(x)|hardtanh(x, -0.5, 2.0)|hardtanh(x, 2.0, -0.5)|hardsigmoid(x)|hardswish(x)|mish(x)
logsigmoid(x)|threshold(x, 0.1, 20.0)|tanhshrink(x)|sigmoid(x)|tanh(x)|hardshrink(x)|hardshrink(x, 1.0)
hardshrink(x, -1.0)|softshrink(x)|softshrink(x, 1)|softshrink(x, -0.1)"""


@pytest.mark.parametrize("text", ACTIVATIONS.replace("\n", "|").split("|"))
def test_activation(text: str) -> None:
    shapes = [draw((4, 6)), draw((2, 3, 4), "d"), draw((4, 6), "h"), draw((4, 6), "i"), draw(()), draw((0, 4))]
    check(f"F.{text}", *[[a] for a in (*shapes, EXTREMES)])


ROWS = [
    [draw((4, 6))], [draw((2, 3, 4), "d")], [draw((4, 6), "h")], [draw((4, 6), "i")], [draw(())], [draw((0, 4))],
    [np.float32([[1, -np.inf, 2], [-np.inf, -np.inf, 0], [1000, 1000, -1000]])], [np.float32([[-np.inf, -np.inf]])],
    [np.float32([[np.inf, 1]])],
]  # fmt: skip


@pytest.mark.parametrize("text", ["softmax(x, -1)", "softmax(x, 0)", "log_softmax(x, -1)", "log_softmax(x, 0)",
                                  "softmin(x, -1)", "softmax(x, 5)", "glu(x)", "glu(x, 0)"])  # fmt: skip
def test_function_of_rows(text: str) -> None:
    check(f"F.{text}", *ROWS[: 5 if "glu" in text else None])


def test_softmax_in_another_type_and_as_methods() -> None:
    check("F.softmax(x, 1, dtype=m.float64)", [draw((2, 3))])
    check("F.softmax(x, 1, dtype=m.float32)", [draw((2, 3), "i")])
    for text in ("m.softmax(x, 1)", "x.softmax(1)", "x.log_softmax(-1)", "m.relu(x)", "x.relu()"):
        check(text, [draw((2, 3))])
    check("F.prelu(x, y)", *[[draw(s), draw((w,))] for s, w in
                             (((2, 3, 4), 3), ((2, 3, 4), 1), ((2, 3, 4), 4), ((5,), 1), ((), 1))])  # fmt: skip


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms_of_last_dimensions(name: str) -> None:
    for shape, last in (((3, 4), "(4,)"), ((2, 3, 4), "(3, 4)"), ((3, 4), "(5,)"), ((3, 4), "()"), ((4,), "(4,)"),
                        ((0, 4), "(4,)")):  # fmt: skip
        check(f"F.{name}(x, {last})", [draw(shape)])
        check(f"F.{name}(x, {last})", [draw(shape, "h")])
    check(f"F.{name}(x, (4,), y)", [draw((2, 3, 4)), draw((4,))], [draw((2, 3, 4)), draw((3,))])


def test_layer_norm_with_scale_and_shift() -> None:
    check("F.layer_norm(x, (4,), y, z, 1e-3)", [draw((2, 3, 4)), draw((4,)), draw((4,), seed=1)])
    check("F.layer_norm(x, (4,), None, y)", [draw((2, 3, 4)), draw((4,))])
    check("F.rms_norm(x, (4,), y, 1e-3)", [draw((2, 3, 4)), draw((4,))])
    check("F.layer_norm(x, (4,))", [draw((2, 4)) + np.float32(1000)], tolerance=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5), (1, 3), (0, 3), (3,)])
def test_batch_norm_and_its_running_statistics(shape: tuple[int, ...], training: bool) -> None:
    def case(m: object, x: object, w: object, b: object) -> object:
        mean, variance = m.zeros(3) + 0.2, m.ones(3) * 1.7  # type: ignore[attr-defined]
        y = functions(m).batch_norm(x, mean, variance, w, b, training, 0.3, 1e-4)
        return y, mean, variance

    compare(case, draw(shape), draw((3,)), draw((3,), seed=1))


def test_batch_norm_without_statistics() -> None:
    check("F.batch_norm(x, None, None, None, None, True)", [draw((4, 3))])
    check("F.batch_norm(x, None, None)", [draw((4, 3))])
    check("F.batch_norm(x, m.zeros(2), m.ones(2), None, None, True)", [draw((4, 3))])


def test_other_norms() -> None:
    for groups in (1, 2, 3, 4):
        check(f"F.group_norm(x, {groups})", [draw((2, 4, 3, 2))])
    check("F.group_norm(x, 2, y, z)", [draw((2, 4, 3)), draw((4,)), draw((4,), seed=1)])
    check("F.group_norm(x, 2)", [draw((2, 4))], [draw((4,))])
    check("F.instance_norm(x)", [draw((2, 4, 3))], [draw((2, 4))])
    check("F.instance_norm(x, weight=y, bias=z)", [draw((2, 4, 3, 3)), draw((4,)), draw((4,), seed=1)])
    check("F.instance_norm(x, y, z)", [draw((2, 4, 3)), draw((3,)), draw((3,))])
    for size in (1, 2, 5):
        for shape in ((2, 4, 3), (2, 4, 3, 2), (1, 4, 3, 2, 2), (0, 4, 3), (4, 3)):
            check(f"F.local_response_norm(x, {size})", [draw(shape)])
            check(f"F.local_response_norm(x, {size}, 0.3, 1.5, 2.0)", [draw(shape)], [draw(shape, "d")])
    for text in ("F.normalize(x)", "F.normalize(x, 1.0)", "F.normalize(x, 3.0, 0)", "F.normalize(x, p=float('inf'))"):
        check(text, [draw((3, 4))], [np.zeros((2, 3), np.float32)])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 3, 2, 5), (2, 3, 1)])
def test_instance_norm_and_its_running_statistics(shape: tuple[int, ...], training: bool) -> None:
    def case(m: object, x: object, w: object, b: object) -> object:
        mean, variance = m.zeros(3) + 0.2, m.ones(3) * 1.7  # type: ignore[attr-defined]
        y = functions(m).instance_norm(x, mean, variance, w, b, training, 0.3, 1e-4)
        return y, mean, variance

    compare(case, draw(shape), draw((3,)), draw((3,), seed=1))


@pytest.mark.parametrize("text", ["pixel_shuffle(x, 2)", "pixel_shuffle(x, 1)", "pixel_shuffle(x, 0)",
                                  "pixel_shuffle(x, 3)", "pixel_unshuffle(x, 2)", "pixel_unshuffle(x, 3)",
                                  "pixel_unshuffle(x, -1)", "channel_shuffle(x, 2)", "channel_shuffle(x, 4)",
                                  "channel_shuffle(x, 3)", "channel_shuffle(x, 0)"])  # fmt: skip
def test_shuffles(text: str) -> None:
    check(f"F.{text}", *[[draw(s)] for s in ((2, 8, 2, 4), (8, 4, 6), (2, 3, 4, 2, 6), (3, 4), (2, 8, 3))])
    check(f"m.{text}", [draw((2, 8, 2, 4), "i")])


LINEAR = [
    ((4, 3), (5, 3), (5,)), ((2, 4, 3), (5, 3), (5,)), ((3,), (5, 3), (5,)), ((4, 3), (3,), ()), ((4, 3), (5, 4), (5,)),
    ((4, 3), (5, 3), (4,)), ((0, 3), (5, 3), (5,)), ((4, 0), (5, 0), (5,)), ((), (5, 3), (5,)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", LINEAR, ids=str)
def test_linear(shapes: tuple[tuple[int, ...], ...]) -> None:
    for kinds in ("fff", "ddd", "dff", "iii"):
        operands = [draw(s, k) for s, k in zip(shapes, kinds, strict=True)]
        check("F.linear(x, y, z)", operands)
        check("F.linear(x, y)", operands[:2])


def test_bilinear() -> None:
    check("F.bilinear(x, y, z)", [draw((4, 3)), draw((4, 5)), draw((2, 3, 5))],
          [draw((2, 4, 3)), draw((2, 4, 5)), draw((2, 3, 5))], [draw((4, 3)), draw((4, 5)), draw((2, 5,
          3))])  # fmt: skip


INDICES = [np.array([1, 2, 1]), np.array([[0, 1], [2, 0]]), np.array(1), np.array([5]), np.array([-1]),
           np.zeros(0, np.int64), np.int32([1, 0]), np.float32([1])]  # fmt: skip


@pytest.mark.parametrize("options", ["", ", padding_idx=1", ", padding_idx=-1", ", padding_idx=7"])
def test_embedding(options: str) -> None:
    check(f"F.embedding(x, y{options})", *[[i, draw((3, 4))] for i in INDICES])


def test_one_hot() -> None:
    for i in (INDICES[0], INDICES[1], INDICES[2], INDICES[5], INDICES[7]):
        check("F.one_hot(x)", [i])
        check("F.one_hot(x, 4)", [i])
        check("F.one_hot(x, -3)", [i])
    with pytest.raises(IndexError):
        functional.one_hot(tj.tensor([4]), 4)


def test_dropout_where_nothing_is_random() -> None:
    for text in ("0.0, True", "1.0, True", "0.5, False", "0.5", "1.5", "-0.1, True"):
        check(f"F.alpha_dropout(x, {text})", [draw((3, 4))])
    for text in ("0.0", "1.0", "0.5, False", "1.5", "-0.1"):
        check(f"F.dropout(x, {text})", [draw((3, 4))])
        check(f"F.dropout2d(x, {text})", [draw((3, 4, 2, 2))])


def test_dropout_keeps_its_share() -> None:
    tj.manual_seed(0)
    x = tj.ones(200, 200, requires_grad=True)
    y = functional.dropout(x, 0.3)
    kept = y.detach().numpy() != 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(y.detach().numpy()[kept], 1 / 0.7, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0, kept)
    whole = functional.dropout2d(tj.ones(8, 50, 3, 3), 0.5).numpy().reshape(400, 9)
    assert (whole == whole[:, :1]).all()
    assert 0.3 < (whole[:, 0] != 0).mean() < 0.7


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    tj.manual_seed(0)
    x = tj.randn(300, 300).requires_grad_()
    y = functional.alpha_dropout(x, 0.2, True)
    y.sum().backward()
    values, kept = y.detach().numpy(), x.grad.numpy() != 0
    assert abs(kept.mean() - 0.8) < 0.01
    assert abs(values.mean()) < 0.02
    assert abs(values.var() - 1) < 0.03
    # What is kept is a line through the input, all the rest one value.
    slope, shift = np.polyfit(x.detach().numpy()[kept], values[kept], 1)
    alpha = 1.7580993408473766
    assert slope == pytest.approx((0.8 * (1 + 0.2 * alpha**2)) ** -0.5, rel=1e-5)
    assert shift == pytest.approx(alpha * slope * 0.2, rel=1e-4)
    assert np.unique(values[~kept]).tolist() == [pytest.approx(-alpha * slope * 0.8, rel=1e-5)]


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_draws_classes_by_their_shares(hard: bool) -> None:
    tj.manual_seed(0)
    shares = np.float32([0.1, 0.2, 0.7])
    x = tj.tensor(np.log(shares)).expand(20000, 3).clone().requires_grad_()
    y = functional.gumbel_softmax(x, tau=0.5, hard=hard)
    found = y.detach().numpy()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.eye(3)[found.argmax(1)].mean(0), shares, atol=0.015)
    assert np.isin(found.round(5), (0, 1)).all() == hard
    # Either has the gradient of the shares: its rows add up to nothing.
    (y * tj.tensor([1.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_allclose(x.grad.numpy().sum(1), 0, atol=1e-5)
    assert abs(x.grad.numpy()).max() > 0.1
    rows, columns = (functional.gumbel_softmax(tj.zeros(4, 6), dim=d).sum(d).numpy() for d in (-1, 0))
    np.testing.assert_allclose([*rows, *columns], 1, rtol=1e-5)


def test_gumbel_softmax_refuses_what_pytorch_refuses() -> None:
    check("F.gumbel_softmax(x)", [draw((3, 4), "i")])
    check("F.gumbel_softmax(x, dim=2)", [draw((3, 4))])
    with pytest.warns(UserWarning, match="no effect"):
        functional.gumbel_softmax(tj.zeros(3), eps=1e-5)


REDUCTIONS = ["mean", "sum", "none", "zz"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("text", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"])
def test_distances(text: str, reduction: str) -> None:
    a, b = draw((3, 4)), draw((3, 4), seed=1)
    check(f"F.{text}(x, y, reduction='{reduction}')", [a, b], [draw(()), draw((), seed=1)])
    extra = {"smooth_l1_loss": ["beta=0.3", "beta=0.0", "beta=-1.0"], "huber_loss": ["delta=0.4", "delta=0.0"],
             "kl_div": ["log_target=True"], "mse_loss": ["weight=y * y"]}  # fmt: skip
    for option in extra.get(text, []):
        check(f"F.{text}(x, y, reduction='{reduction}', {option})", [a, b])
    if reduction != "zz" and text not in ("kl_div", "huber_loss"):
        pairs = [[a, draw((4,))], [a, draw((5,))], [a, draw((3, 4), "d")]]
        check(f"F.{text}(x, y, reduction='{reduction}')", *pairs)


def test_batchmean_and_measures() -> None:
    check("F.kl_div(x, y, reduction='batchmean')", [draw((3, 4)), np.abs(draw((3, 4)))])
    for text in ("cosine_similarity(x, y)", "cosine_similarity(x, y, dim=0)", "pairwise_distance(x, y)",
                 "pairwise_distance(x, y, p=1.0, keepdim=True)", "pairwise_distance(x, y, p=3.0)"):  # fmt: skip
        check(f"F.{text}", [draw((3, 4)), draw((3, 4), seed=2)])
    check("F.cosine_similarity(x, y)", [np.zeros((2, 3), np.float32), draw((2, 3))])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropies(reduction: str) -> None:
    shares = 1 / (1 + np.exp(-draw((3, 4))))
    hits = draw((3, 4), "b").astype(np.float32)
    check(f"F.binary_cross_entropy(x, y, reduction='{reduction}')", [shares, hits], [shares, hits[0]])
    check(f"F.binary_cross_entropy(x, y, z.detach(), reduction='{reduction}')", [shares, hits, np.abs(draw((3, 4)))])
    name = "binary_cross_entropy_with_logits"
    check(f"F.{name}(x, y, reduction='{reduction}')", [draw((3, 4)) * 20, shares], [draw((3, 4)), draw((4,))])
    check(f"F.{name}(x, y, z.detach(), reduction='{reduction}', pos_weight=w.detach())",
          [draw((3, 4)), shares, draw((3, 4)), np.abs(draw((4,)))])  # fmt: skip


def classes(*shape: int) -> np.ndarray:
    return draw(shape, "i", low=0, high=4)


TARGETS = [
    [draw((6, 4)), classes(6)], [draw((4,)), classes()], [draw((2, 4, 3)), classes(2, 3)],
    [draw((2, 4, 3, 2)), classes(2, 3, 2)], [draw((6, 4), "d"), classes(6)], [draw((6, 4), "h"), classes(6)],
    [draw((3, 4)), classes(2)], [draw((3, 4)), np.array([0, 1, 4])], [draw((3, 4)), np.array([0, 1, -1])],
    [draw((3, 4)), np.array([0, 1, -100])], [draw((3, 4)), np.float32([0, 1, 1])], [draw((3, 4)), np.int32([0, 1, 1])],
    [draw((3, 4)), classes(3, 4)], [draw((3, 4), "i"), classes(3)], [draw(()), classes()],
    [draw((4, 3, 2)), classes(4, 3)],
    [draw((0, 4)), classes(0)], [draw((3, 4)) * 100, classes(3)], [draw((3, 4)), np.array([1, 1, 1])],
    [np.float32([[1, -np.inf, 2]]), np.array([0])],
]  # fmt: skip
SHARES = [[draw((6, 4)), draw((6, 4), seed=1)], [draw((2, 4, 3)), draw((2, 4, 3), seed=1)], [draw((4,)), draw((4,))]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", ["", ", label_smoothing=0.1", ", ignore_index=1",
                                     ", ignore_index=1, label_smoothing=0.3", ", label_smoothing=2.0"])  # fmt: skip
def test_cross_entropy(options: str, reduction: str) -> None:
    check(f"F.cross_entropy(x, y, reduction='{reduction}'{options})", *TARGETS, *SHARES)
    weighted = [[draw((6, 4)), classes(6), np.abs(draw((4,)))], [draw((6, 4, 2)), classes(6, 2), np.abs(draw((4,)))],
                [*SHARES[0], np.abs(draw((4,)))], [draw((6, 4)), classes(6), np.abs(draw((3,)))]]  # fmt: skip
    check(f"F.cross_entropy(x, y, z.detach(), reduction='{reduction}'{options})", *weighted)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(reduction: str) -> None:
    choices = [TARGETS[k] for k in (0, 1, 2, 6, 7, 9, 10, 12)]
    check(f"F.nll_loss(x, y, reduction='{reduction}')", *choices)
    check(f"F.nll_loss(x, y, reduction='{reduction}', ignore_index=2)", *choices)


def signs(*shape: int) -> np.ndarray:
    return np.where(draw(shape, "b"), 1, -1).astype(np.float32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_with_a_margin(reduction: str) -> None:
    a, b, whole = draw((3, 4)), draw((3, 4), seed=1), signs(3, 4)
    for options in ("", ", margin=0.7", ", margin=2"):
        text = f"F.margin_ranking_loss(x, y, z.detach(), reduction='{reduction}'{options})"
        check(text, [a, b, whole], [a, b, whole.astype(np.int64)], [a, b, whole[0]], [draw(()), draw(()), signs()])
        text = f"F.hinge_embedding_loss(x, y.detach(), reduction='{reduction}'{options})"
        check(text, [a, whole], [a, whole.astype(np.int64)], [a, whole[0]], [a, whole[:2]], [a, np.zeros_like(a)])
        text = f"F.cosine_embedding_loss(x, y, z.detach(), reduction='{reduction}'{options})"
        check(text, [a, b, whole[:, 0]], [a[0], b[0], signs()], [a, b, whole], [a, b, signs()], [a[0], b[0], whole[0]],
              [a * 0, b, whole[:, 0]], [a, b, signs(3).astype(np.int64)])  # fmt: skip
    check(f"F.soft_margin_loss(x, y.detach(), reduction='{reduction}')", [a, whole], [a, whole[0]], [a, whole[:2]])
    check(f"F.multilabel_soft_margin_loss(x, y, reduction='{reduction}')", [a, whole], [a[0], whole[0]])
    check(f"F.multilabel_soft_margin_loss(x, y, z.detach(), reduction='{reduction}')", [a * 20, whole, np.abs(a[0])])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", ["", ", margin=0.3", ", p=1.0", ", p=3, swap=True", ", swap=True, eps=0.1",
                                     ", margin=-1.0"])  # fmt: skip
def test_triplet_margin_loss(options: str, reduction: str) -> None:
    triple = [draw((5, 4), seed=k) for k in range(3)]
    text = f"F.triplet_margin_loss(x, y, z, reduction='{reduction}'{options})"
    check(text, triple, [x[0] for x in triple], [triple[0][0], *triple[1:]])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", ["", ", margin=0.3", ", p=2", ", p=2, margin=2.0", ", p=3"])
def test_multi_margin_loss(options: str, reduction: str) -> None:
    text = f"F.multi_margin_loss(x, y, reduction='{reduction}'{options})"
    check(text, *[TARGETS[k] for k in (0, 1, 2, 4, 6, 10, 12, 13)], [draw((4,)), classes(1)], [draw(()), np.array(0)])
    text = f"F.multi_margin_loss(x, y, weight=z.detach(), reduction='{reduction}'{options})"
    check(text, *[[draw((6, 4)), classes(6), np.abs(draw(s))] for s in ((4,), (3,), (1, 4))])


def test_a_class_out_of_range_has_no_margin() -> None:
    with pytest.raises(IndexError):
        functional.multi_margin_loss(tj.zeros(2, 3), tj.tensor([0, 3]))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_of_counts_and_variances(reduction: str) -> None:
    a, b, counts = draw((3, 4)), draw((3, 4), seed=1), draw((3, 4), "i", low=0)
    for options in ("", ", full=True", ", log_input=False", ", log_input=False, eps=0.1, full=True"):
        rates = np.abs(a) + 0.1 if "log_input" in options else a
        text = f"F.poisson_nll_loss(x, y.detach(), reduction='{reduction}'{options})"
        check(text, [rates, counts], [rates, np.abs(counts).astype(np.float32)], [rates, counts[0]], [counts, counts])
    for options in ("", ", full=True", ", eps=0.5"):
        text = f"F.gaussian_nll_loss(x, y, z, reduction='{reduction}'{options})"
        sizes = ((3, 4), (3,), (3, 1), (1, 4), (4,), (2, 4))
        check(text, *[[a, b, np.abs(draw(s))] for s in sizes], [a, b, a], [a, b[0], np.abs(a)], tolerance=1e-4)
        check(f"F.gaussian_nll_loss(x, y, 0.7, reduction='{reduction}'{options})", [a, b])
        check(f"F.gaussian_nll_loss(x, y, -0.7, reduction='{reduction}'{options})", [a, b])


CONV = ["", "padding=1", "stride=2", "stride=(2, 1), padding=(1, 0)", "dilation=2", "padding='same'", "padding='valid'",
        "padding='same', dilation=2", "padding='same', stride=2", "padding='x'", "padding=-1", "stride=0", "dilation=0",
        "padding=(1,2,3)", "groups=2"]  # fmt: skip


@pytest.mark.parametrize("options", CONV)
def test_conv2d(options: str) -> None:
    shapes = (((2, 4, 7, 6), (6, 4, 3, 3)), ((4, 7, 6), (6, 4, 3, 2)), ((2, 4, 5, 5), (4, 2, 3, 3)),
              ((2, 4, 7, 6), (6, 4, 2, 2)))  # fmt: skip
    check(f"F.conv2d(x, y, {options})", *[[draw(a), draw(b)] for a, b in shapes], tolerance=1e-4)


def test_conv2d_with_bias_and_wrong_sizes() -> None:
    weight = draw((6, 4, 3, 3))
    check("F.conv2d(x, y, z)", [draw((2, 4, 7, 6)), weight, draw((6,))], [draw((2, 4, 7, 6)), weight, draw((5,))])
    check("F.conv2d(x, y)", *[[draw(s), weight] for s in ((2, 4, 2, 2), (2, 3, 7, 7), (7, 7), (0, 4, 7, 7))])
    check("F.conv2d(x, y)", [draw((2, 4, 7, 7), "d"), weight], [draw((2, 4, 7, 7), "d"), draw((6, 4, 3, 3), "d")])


@pytest.mark.parametrize("options", ["", "padding=1", "stride=2", "dilation=2", "padding='same'", "groups=2"])
def test_conv1d(options: str) -> None:
    shapes = (((2, 4, 9), (6, 4, 3)), ((2, 4, 9), (6, 2, 3)), ((4, 9), (6, 4, 3)))
    check(f"F.conv1d(x, y, {options})", *[[draw(a), draw(b)] for a, b in shapes])


@pytest.mark.parametrize("options", ["", "padding=1", "stride=2", "stride=2, output_padding=1", "dilation=2",
                                     "groups=2",
                                     "stride=2, padding=1, output_padding=1", "output_padding=3"])  # fmt: skip
def test_transposed_convolutions(options: str) -> None:
    check(f"F.conv_transpose2d(x, y, {options})", [draw((2, 4, 5, 4)), draw((4, 3, 3, 2))],
          [draw((4, 5, 4)), draw((4, 3, 3, 2))])  # fmt: skip
    check(f"F.conv_transpose1d(x, y, {options})", [draw((2, 4, 5)), draw((4, 3, 3))])
    check("F.conv_transpose2d(x, y, z)", [draw((2, 4, 5, 4)), draw((4, 3, 3, 2)), draw((3,))])


@pytest.mark.parametrize("options", ["2", "3, 1", "3, 2, 1", "(2, 3)", "2, dilation=2", "3, 2, ceil_mode=True",
                                     "9", "0",
                                     "2, return_indices=True", "3, 1, 1, return_indices=True", "2, padding=2",
                                     "2, stride=0", "3, 2, 1, 1, True, True"])  # fmt: skip
def test_max_pool2d(options: str) -> None:
    check(f"F.max_pool2d(x, {options})", *[[draw(s)] for s in ((2, 3, 7, 6), (3, 7, 6), (7, 6))])


@pytest.mark.parametrize("options", ["2", "3, 1", "3, 2, 1", "(2, 3)", "3, 2, ceil_mode=True", "9", "0", "2, padding=2",
                                     "3, 2, 1, count_include_pad=False", "2, divisor_override=3",
                                     "3, 2, 1, True, False", "2, divisor_override=0"])  # fmt: skip
def test_avg_pool2d(options: str) -> None:
    check(f"F.avg_pool2d(x, {options})", *[[draw(s)] for s in ((2, 3, 7, 6), (3, 7, 6))])


@pytest.mark.parametrize("options", ["2", "3, 1", "3, 2, 1"])
@pytest.mark.parametrize("name", ["max_pool1d", "avg_pool1d"])
def test_pools_of_sequences(name: str, options: str) -> None:
    check(f"F.{name}(x, {options})", [draw((2, 3, 7))], [draw((3, 7))])


@pytest.mark.parametrize("size", ["1", "2", "(3, 2)", "(None, 3)", "5", "7"])
def test_adaptive_avg_pool(size: str) -> None:
    check(f"F.adaptive_avg_pool2d(x, {size})", [draw((2, 3, 6, 8))], [draw((3, 7, 5))])
    if size.isdigit():
        check(f"F.adaptive_avg_pool1d(x, {size})", [draw((2, 3, 8))])


@pytest.mark.parametrize("options", ["scale_factor=2", "scale_factor=(2, 3)", "size=(5, 9)", "size=7",
                                     "scale_factor=0.5",
                                     "scale_factor=1.5", "scale_factor=2.2", "", "size=3, scale_factor=2",
                                     "size=(4, 5)", "scale_factor=2.3, recompute_scale_factor=True",
                                     "size=3, recompute_scale_factor=True", "size=(3, 4, 5)"])  # fmt: skip
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
def test_interpolate(mode: str, options: str) -> None:
    images = [draw((2, 3, 4, 5))]
    check(f"F.interpolate(x, mode='{mode}', {options})", images, tolerance=3e-5)
    if mode in ("bilinear", "bicubic"):
        check(f"F.interpolate(x, mode='{mode}', align_corners=True, {options})", images, tolerance=3e-5)


@pytest.mark.parametrize("options", ["size=9", "scale_factor=0.4", "size=1, align_corners=True", "scale_factor=0"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "area", "bilinear", "trilinear", "lanczos"])
def test_interpolate_other_dimensions(mode: str, options: str) -> None:
    check(f"F.interpolate(x, {options}, mode='{mode}')", [draw((2, 3, 7))], [draw((2, 2, 3, 4, 3))], [draw((4, 5))])


@pytest.mark.parametrize("factor", [1.05, 2.05])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_interpolate_by_factors_that_sizes_do_not_show(mode: str, factor: float) -> None:
    # PyTorch's gradients, of "bicubic" and of sequences, are there those of other results than its own.
    text = f"F.interpolate(x, scale_factor={factor}, mode='{mode}')"
    check(text, [draw((2, 3, 12, 8))], grad=mode != "bicubic")
    if mode.startswith("nearest"):
        check(text, [draw((2, 3, 12))], [draw((1, 1, 8, 8, 8))], grad=False)


def test_interpolate_makes_a_tensor() -> None:
    x = tj.ones(1, 1, 2, 2)
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        functional.interpolate(x, size=2, mode=mode).mul_(3)
    assert x.tolist() == [[[[1, 1], [1, 1]]]]


def test_interpolate_of_half_precision_is_rounded_once() -> None:
    for mode in ("bilinear", "bicubic"):
        text = f"F.interpolate(x, scale_factor=1.7, mode='{mode}')"
        check(text, [draw((2, 3, 4, 5), "h")], [draw((1, 1, 4, 5), "d")])


@pytest.mark.parametrize("sides", ["(1, 2)", "(0, 3)", "(2, 1, 0, 3)", "(1, 1, 1, 1, 1, 1)", "(-1, 2)",
                                   "(2, -2, -1, 1)", "(4, 0)", "(0, 5)", "(7, 7)", "(-2, -3)", "(1,)", "(0, 0)",
                                   "(1, 1) * 4"])  # fmt: skip
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "mirror"])
def test_pad(mode: str, sides: str) -> None:
    shapes = (5,), (3, 5), (2, 3, 5), (2, 3, 4, 5), (2, 2, 3, 4, 5), (2, 3, 0)
    check(f"F.pad(x, {sides}, '{mode}')", *[[draw(s)] for s in shapes])


def test_pad_with_a_value_of_its_own() -> None:
    check("F.pad(x, (1, 1), 'reflect', 2.0)", [draw((2, 3, 5))])
    check("F.pad(x, (1, 1), 'reflect', 0)", [draw((2, 3, 5))])
    x = tj.ones(2, 3)
    for mode in ("reflect", "replicate", "circular"):
        functional.pad(x, (0, -1), mode).mul_(3)
        functional.pad(x, (0, 0), mode).mul_(3)
    assert x.tolist() == [[1, 1, 1], [1, 1, 1]]


WINDOWS = ["2", "(2, 3)", "3, 2", "2, (1, 2), 1", "3, 1, 1, 2", "(3, 2), 1, (1, 0), (2, 1)", "2, 2, 2, 3", "0", "9",
           "2, 0", "2, 1, -1", "2, 1, 0, 0"]  # fmt: skip


@pytest.mark.parametrize("options", WINDOWS)
def test_unfold(options: str) -> None:
    shapes = (2, 3, 6, 7), (3, 6, 7), (0, 3, 6, 7), (2, 0, 6, 7), (1, 2, 3, 6, 7)
    check(f"F.unfold(x, {options})", *[[draw(s)] for s in shapes])


@pytest.mark.parametrize("options", WINDOWS)
def test_fold(options: str) -> None:
    """What PyTorch's own columns fold to, bit for bit: elements are added in its order."""
    torch = pytest.importorskip("torch")
    try:
        columns = torch.nn.functional.unfold(torch.from_numpy(draw((2, 3, 6, 7))), *eval(f"({options},)"))
    except RuntimeError:
        columns = torch.zeros(2, 12, 5)
    given = draw(tuple(columns.shape))
    check(f"F.fold(x, (6, 7), {options})", [given], [given[0]], [given[:, :-1]], [given[:, :, :-1]], [given[None]])
    check(f"F.fold(x, (6, 7), {options})", [given], grad=False, tolerance=0)


@pytest.mark.parametrize("factor", [1, 2, 3, 0, -1])
@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
def test_pixel_shuffle(name: str, factor: int) -> None:
    shapes = (2, 8, 4, 6), (9, 3, 6), (2, 2, 36, 6, 6), (4, 6)
    check(f"F.{name}(x, {factor})", *[[draw(s)] for s in shapes])


def test_pixel_shuffle_of_nothing() -> None:
    # PyTorch gives an empty batch back as it came.
    x = tj.zeros(0, 8, 4, 6)
    assert functional.pixel_shuffle(x, 2).shape == (0, 2, 8, 12)
    assert functional.pixel_unshuffle(x, 2).shape == (0, 32, 2, 3)


HEADS = [
    ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)), ((5, 4), (6, 4), (6, 4)), ((3, 5, 4), (3, 5, 4), (3, 5, 4)),
    ((2, 1, 5, 4), (1, 3, 6, 4), (1, 3, 6, 7)), ((2, 3, 5, 4), (2, 3, 6, 5), (2, 3, 6, 4)), ((4,), (4,), (4,)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", HEADS, ids=str)
@pytest.mark.parametrize("options", ["", "scale=0.7", "is_causal=True"])
def test_attention(options: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    check(f"F.scaled_dot_product_attention(x, y, z, {options})", [draw(s, seed=k) for k, s in enumerate(shapes)])


def test_attention_with_masks() -> None:
    operands = [draw((2, 3, 5, 4)), draw((2, 3, 6, 4)), draw((2, 3, 6, 4), seed=1)]
    masks = [draw((5, 6)), draw((5, 6), "b"), np.zeros((5, 6), np.bool_), draw((2, 1, 1, 6), "b"), draw((5, 6), "d"),
             np.where(draw((5, 6), "b"), 0, -np.inf).astype(np.float32)]  # fmt: skip
    check("F.scaled_dot_product_attention(x, y, z, w)", *[[*operands, k] for k in masks])
    check("F.scaled_dot_product_attention(x, y, z, w, is_causal=True)", [*operands, masks[0]])
    check("F.scaled_dot_product_attention(x, y, z, dropout_p=1.0)", operands)
    check("F.scaled_dot_product_attention(x, y, z, enable_gqa=True)", [draw((2, 6, 5, 4)), *operands[1:]])
    half = [draw(s.shape, "h") for s in operands]
    check("F.scaled_dot_product_attention(x, y, z)", half, grad=False)


def test_every_function_is_called_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    given = [n for n in dir(functional) if callable(getattr(functional, n))]
    same = {"dropout1d", "dropout3d", "feature_dropout", "pad"}
    assert not [n for n in given if n not in text and n not in same]


NUMBERED = """F.leaky_relu(x, n)|F.elu(x, n)|F.celu(x, n)|F.softplus(x, n, n)|F.hardtanh(x, -n, n)|F.threshold(x, n, n)
x * n|n * x|n + x|n - x|n / x|x / n|x ** n|n ** x|n < x"""


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(2)])
@pytest.mark.parametrize("text", NUMBERED.replace("\n", "|").split("|"))
def test_numpy_numbers_are_numbers(text: str, number: np.number) -> None:
    """Their type does not decide that of the result, whichever side they stand on, however often they come."""
    torch = pytest.importorskip("torch")
    data = np.float32([1, -2, 3, -4])
    expected = eval(text, {"F": torch.nn.functional, "x": torch.from_numpy(data), "n": number})
    for _ in range(20):
        found = eval(text, {"F": tj.nn.functional, "x": tj.from_numpy(data), "n": number})
        assert isinstance(found, tj.Tensor)
        assert str(found.dtype).split(".")[1] == str(expected.dtype).split(".")[1]
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
