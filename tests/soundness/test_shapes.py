"""Shapes, ragged batches, layouts, views, indexing and types."""

from __future__ import annotations

import numpy as np

import tracejit as tj
from harness import Case, Topic, arr
from tracejit.nn import functional as F

topic = Topic()


@topic.program("sizes")
def ragged_last_batch():
    w = arr(0, 4, 2).requires_grad_()

    def f(x):
        w.grad = None
        loss = (x @ w).tanh().mean()
        loss.backward()
        return loss

    return Case(f, lambda i: arr(i, 3 if i % 4 == 3 else 8, 4), lambda: w)


@topic.program("sizes")
def another_shape_each_call():
    return Case(lambda x: (x * 2 + 1).sum(-1), lambda i: arr(i, i + 1, 2))


@topic.program("branch")
def rank_changes():
    return Case(
        lambda x: (x.T if x.ndim == 2 else x).exp(),
        lambda i: arr(i, *[2, 3, 4][: 1 + i % 3]) if i % 3 < 2 else arr(i, 5),
    )


@topic.program("sizes")
def batch_of_zero():
    w = arr(0, 4, 2)
    return Case(lambda x: ((x @ w).relu().sum(0), x.shape[0], x.mean(1)), lambda i: arr(i, 0 if i % 3 == 2 else 5, 4))


@topic.program("branch")
def zero_dim_inputs():
    return Case(lambda x, y: (x * y + 1).exp() - x, lambda i: (arr(i), arr(i + 9) if i % 2 else arr(i + 9, 3)))


@topic.program("branch")
def transposed_and_strided_inputs():
    def args(i):
        x = arr(i, 4, 6)
        return [x, arr(i, 6, 4).T, arr(i, 8, 6)[::2], arr(i, 4, 12)[:, 1::2]][i % 4]

    return Case(lambda x: (x + 1, x.T @ x, x.reshape(-1).sum(), x.contiguous()), args)


@topic.program("branch")
def expanded_input():
    def args(i):
        return arr(i, 1, 3).expand(4, 3) if i % 2 else arr(i, 4, 3)

    return Case(lambda x: (x * 2, x.sum(0), x.reshape(12)), args)


@topic.program("branch")
def write_into_expanded_input():
    def f(x):
        x.add_(1)
        return x.sum()

    return Case(f, lambda i: arr(i, 1, 3).expand(4, 3) if i % 3 == 2 else arr(i, 4, 3))


@topic.program("branch")
def read_only_array():
    def args(i):
        a = np.random.default_rng(i).standard_normal(3).astype(np.float32)
        a.flags.writeable = i % 3 != 2
        return tj.from_numpy(a)

    def f(x):
        y = x * 2
        x.mul_(3)
        return y + x

    return Case(f, args)


@topic.program("branch")
def fortran_order_and_offset_arrays():
    def args(i):
        a = np.random.default_rng(i).standard_normal((5, 4)).astype(np.float32)
        return tj.from_numpy(np.asfortranarray(a) if i % 2 else a[1:, :])

    return Case(lambda x: (x.mean(1), x @ x.T), args)


@topic.program("sizes")
def every_form_of_index():
    def f(x):
        return (
            x[0],
            x[-1, 1:],
            x[..., 0],
            x[None, :, ::2],
            x[[0, 2]],
            x[tj.tensor([1, 1])],
            x[x > 0],
            x[:, tj.tensor([True, False, True, True])],
            x[1:1],
            x[tj.tensor(1)],
            x[tj.tensor([0, 1]), tj.tensor([2, 3])],
            x[tj.tensor([[0], [1]]), [0, 3]],
            x[np.int64(1)],
            x[True],
        )

    return Case(f, lambda i: arr(i, 3, 4))


@topic.program("one program")
def every_form_of_index_assignment():
    def f(x, v):
        y = x.clone()
        y[0] = 1.0
        y[1:, ::2] = v
        y[..., -1] = 7
        y[y > 0.5] = 0.25
        y[[0, 2]] = y[[2, 0]]
        y[tj.tensor([1])] += 3
        y[:, 0] *= 2
        return y

    return Case(f, lambda i: (arr(i, 3, 4), arr(i + 5, 2, 2)))


@topic.program("sizes")
def index_numbers_that_change():
    return Case(lambda x, k: (x[k], x[k:], x[:, k % 2], x[-k:]), lambda i: (arr(i, 5, 3), i % 5))


@topic.program("one program")
def index_out_of_range_now_and_then():
    log: list[str] = []

    def f(x, k):
        y = x * 2
        log.append("before")
        z = y[k]
        log.append("after")
        return z

    return Case(f, lambda i: (arr(i, 4), i % 6), lambda: log)


@topic.program("one program")
def lookup_that_nothing_uses():
    def f(x, i):
        _ = x[i + 1]
        return x * 2

    return Case(f, lambda i: (arr(i, 4), tj.tensor([i])))


@topic.program("one program")
def lookup_that_a_pass_drops():
    def f(x, i):
        return tj.cat([x[i + 1], x])[1:] * 2

    return Case(f, lambda i: (arr(i, 4), tj.tensor([i])))


@topic.program("one program")
def lookup_of_which_no_element_is_taken():
    return Case(lambda x, i: x[i - 1][:0] * 2, lambda i: (arr(i, 2), tj.tensor([i])))


@topic.program("one program")
def lookup_and_nothing_else():
    def f(x, i):
        F.embedding(i + 1, x)

    return Case(f, lambda i: (arr(i, 4, 3), tj.tensor([i])))


@topic.program("branch")
def draw_that_nothing_uses_from_weights_that_may_be_wrong():
    def f(x, i):
        tj.multinomial(x - i, 2)
        return x * 2

    return Case(f, lambda i: (tj.tensor([0.5, 3.0, 7.0]), tj.tensor(float(i % 2))))


@topic.program("branch")
def gather_scatter_with_changing_indices():
    def f(x, k):
        return x.gather(1, k), tj.zeros(3, 4).scatter(1, k, x[:, :2]), tj.zeros(4).scatter_add(0, k[0], x[0, :2])

    def args(i):
        k = tj.tensor([[i % 4, 1], [0, (i + 1) % 4], [3, 2]])
        return arr(i, 3, 4), k if i != 6 else k + 2

    return Case(f, args)


@topic.program("one program")
def views_of_a_value_that_is_changed_later():
    def f(x):
        y = x * 1
        v = y[1:]
        w = y.T
        y.add_(1)
        v.mul_(2)
        return y, v, w, w.sum()

    return Case(f, lambda i: arr(i, 3, 3))


@topic.program("one program")
def results_that_are_views_of_each_other():
    def f(x):
        y = x * 2
        return y, y[0], y.T, y.reshape(-1), y.detach(), y.unsqueeze(0)[0]

    return Case(f, lambda i: arr(i, 2, 3))


@topic.program("one program")
def results_that_are_views_of_inputs_and_of_globals():
    w = arr(0, 4, 3)

    def f(x):
        return x, x.T, x[0], w[1:], w, w.detach(), x.reshape(-1)

    return Case(f, lambda i: arr(i, 2, 3), lambda: w)


@topic.program("one program")
def result_view_is_written_between_calls():
    w = arr(0, 4, 3)
    got: list[tj.Tensor] = []

    def args(i):
        for v in got:
            v.add_(1)
        return arr(i, 3)

    def f(x):
        v = w[1]
        got.append(v)
        return (v * x).sum()

    return Case(f, args, lambda: (w, got))


@topic.program("branch")
def reshape_that_copies_or_not():
    return Case(lambda x: (x.reshape(6), x.reshape(6).add_(1), x), lambda i: arr(i, 2, 3) if i % 2 else arr(i, 3, 2).T)


@topic.program("branch")
def contiguous_gives_itself_or_a_copy():
    def f(x):
        y = x.contiguous()
        y.add_(1)
        return y, x, y is x

    return Case(f, lambda i: arr(i, 2, 3) if i % 2 else arr(i, 3, 2).T)


@topic.program("branch")
def to_gives_itself_or_a_copy():
    kinds = [tj.float32, tj.float64, tj.int32]

    def f(x, d):
        y = x.to(d)
        y.add_(1)
        return y, x, y is x

    return Case(f, lambda i: (arr(i, 3), kinds[i % 3]))


@topic.program("branch")
def types_change_between_calls():
    kinds = [tj.float32, tj.float64, tj.int64, tj.float16, tj.bool, tj.uint8]
    return Case(lambda x: (x + x, x * 2, x.sum(), x > 0), lambda i: (arr(i, 4) * 2).to(kinds[i % 6]))


@topic.program("one program")
def casts_inside():
    def f(x):
        return x.half().float(), x.long() + 1, x.bool(), x.to(tj.uint8), x.double().sum(), x.int() / 2

    return Case(f, lambda i: arr(i, 5).abs() * 10)


@topic.program("sizes")
def shape_as_python_values():
    def f(x):
        b, *rest = x.shape
        return x.sum() / b, x.numel() * x, x.reshape(b, -1).shape, x.size(0), str(x.dtype), x.stride(), len(x), rest

    return Case(f, lambda i: arr(i, 2 + i % 3, 2))


@topic.program("branch")
def cat_stack_split_of_changing_counts():
    def f(xs):
        whole = tj.cat(xs)
        return whole, tj.stack([x.sum() for x in xs]), [p * 2 for p in whole.split(2)], whole.chunk(2)

    return Case(f, lambda i: ([arr(10 * i + k, 2) for k in range(1 + i % 4)],))


@topic.program("branch")
def padding_and_packing_of_sequences():
    def f(xs):
        n = max(len(x) for x in xs)
        batch = tj.stack([F.pad(x, (0, n - len(x))) for x in xs])
        mask = tj.arange(n)[None] < tj.tensor([len(x) for x in xs])[:, None]
        return (batch * mask).sum(1) / mask.sum(1), batch

    return Case(f, lambda i: ([arr(i + k, 1 + (i + k) % 3) for k in range(3)],))


@topic.program("branch")
def broadcast_error_now_and_then():
    return Case(lambda x, y: (x * 2) + y, lambda i: (arr(i, 3), arr(i, 4 if i % 4 == 3 else 3)))


@topic.program("one program")
def einsum_and_matmul_forms():
    def f(a, b, v):
        return tj.einsum("ij,jk->ik", a, b), a @ v, v @ b, tj.einsum("bij->bji", a[None]), tj.outer(v, v)

    return Case(f, lambda i: (arr(i, 3, 3), arr(i + 1, 3, 3).T, arr(i, 3)))


@topic.program("eager")
def attention_over_growing_sequences():
    cache: list[tj.Tensor] = []

    def f(x):
        cache.append(x)
        kv = tj.stack(cache)
        return F.softmax(kv @ x, dim=0) @ kv

    return Case(f, lambda i: arr(i, 4), lambda: cache)


@topic.program("sizes")
def input_from_a_slice_of_a_data_set():
    data = arr(0, 20, 3)
    return Case(lambda x: (x - x.mean(0)).abs().sum(), lambda i: data[2 * i : 2 * i + 4], lambda: data)


@topic.program("one program")
def symbolic_pad_is_not_frozen():
    return Case(lambda x, n: F.pad(x, (n, 3 - n), value=float(n)), lambda i: (arr(i, 2, 2), i % 4))


@topic.program("cut")
def one_hot_embedding_bincount():
    w = arr(0, 6, 3)

    def f(k):
        return F.one_hot(k, 6), F.embedding(k, w), k.bincount(minlength=4), w.index_select(0, k)

    return Case(f, lambda i: tj.tensor([i % 6, 1, (i * 2) % 5]))


test_program = topic.test()
