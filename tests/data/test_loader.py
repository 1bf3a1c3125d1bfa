"""Datasets, samplers, collation and the loader, with and without workers."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

import tracejit as tj
from tracejit.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
    random_split,
)


class Squares(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return tj.tensor([index, index * index]), index

    def __len__(self) -> int:
        return self.count


class Stream(IterableDataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(start, self.count, step))


def lists(value: Any) -> Any:
    if isinstance(value, tj.Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [lists(item) for item in value]
    return value


def test_tensor_dataset() -> None:
    data = TensorDataset(tj.arange(6).reshape(3, 2), tj.arange(3))
    assert len(data) == 3
    assert lists(data[1]) == [[2, 3], 1]
    with pytest.raises(AssertionError, match="Size mismatch"):
        TensorDataset(tj.zeros(3), tj.zeros(2))


def test_subset_concat_and_sum() -> None:
    both = Squares(3) + Squares(2)
    assert isinstance(both, ConcatDataset)
    assert [both[i][1] for i in range(5)] == [0, 1, 2, 0, 1]
    assert both[-1][1] == 1
    with pytest.raises(ValueError):
        both[-6]
    with pytest.raises(AssertionError):
        ConcatDataset([])
    part = Subset(both, [4, 0])
    assert [part[i][1] for i in range(len(part))] == [1, 0]


def test_random_split() -> None:
    parts = random_split(Squares(10), [7, 3], generator=tj.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(i for part in parts for i in part.indices) == list(range(10))
    again = random_split(Squares(10), [7, 3], generator=tj.Generator().manual_seed(0))
    assert [part.indices for part in parts] == [part.indices for part in again]
    assert [len(part) for part in random_split(Squares(10), [0.35, 0.35, 0.3])] == [4, 3, 3]
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(Squares(10), [5, 4])
    with pytest.raises(ValueError, match="not between 0 and 1"):
        random_split(Squares(10), [1.5, -0.5])


def test_samplers() -> None:
    data = Squares(5)
    assert list(SequentialSampler(data)) == [0, 1, 2, 3, 4]
    assert sorted(RandomSampler(data)) == [0, 1, 2, 3, 4]
    many = list(RandomSampler(data, num_samples=12))
    assert sorted(many[:5]) == sorted(many[5:10]) == [0, 1, 2, 3, 4]
    assert len(many) == 12
    drawn = list(RandomSampler(data, replacement=True, num_samples=50))
    assert len(drawn) == 50
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert list(BatchSampler(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert len(BatchSampler(range(5), 2, drop_last=True)) == 2
    assert len(BatchSampler(range(5), 2, drop_last=False)) == 3
    for error, make in (
        (TypeError, lambda: RandomSampler(data, replacement=1)),
        (ValueError, lambda: RandomSampler(data, num_samples=-1)),
        (ValueError, lambda: BatchSampler(range(3), 0, False)),
        (ValueError, lambda: BatchSampler(range(3), True, False)),
        (ValueError, lambda: BatchSampler(range(3), 1, 0)),
        (ValueError, lambda: WeightedRandomSampler([1.0], 0)),
        (ValueError, lambda: WeightedRandomSampler([1.0], 1, replacement=1)),
        (ValueError, lambda: WeightedRandomSampler([[1.0]], 1)),
    ):
        with pytest.raises(error):
            make()


def test_weighted_sampler() -> None:
    tj.manual_seed(0)
    drawn = np.bincount(list(WeightedRandomSampler([0.0, 1.0, 3.0, 0.0], 4000)), minlength=4)
    assert drawn[0] == drawn[3] == 0
    assert abs(drawn[2] / drawn[1] - 3) < 0.3
    for _ in range(20):
        assert sorted(WeightedRandomSampler(tj.tensor([0.0, 1.0, 3.0, 5.0]), 3, replacement=False)) == [1, 2, 3]
    firsts = np.bincount([next(iter(WeightedRandomSampler([1.0, 3.0], 1, replacement=False))) for _ in range(500)])
    assert firsts[1] > 2 * firsts[0]
    for weights in ([1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(RuntimeError):
            list(WeightedRandomSampler(weights, 2))
    with pytest.raises(RuntimeError):
        list(WeightedRandomSampler([1.0, 0.0], 2, replacement=False))


Point = collections.namedtuple("Point", "x y")

BATCHES: list[Any] = [
    [1, 2],
    [1.5, 2.5],
    [True, False],
    ["a", "b"],
    [b"a", b"b"],
    [(1, "a"), (2, "b")],
    [[1, 2.0], [3, 4.0]],
    [{"x": 1, "y": [2.0]}, {"x": 3, "y": [4.0]}],
    [Point(1, 2.0), Point(3, 4.0)],
    [np.float32(1.5), np.float32(2.5)],
    [np.arange(3), np.arange(3)],
    [np.arange(6).reshape(2, 3)[:, ::-1], np.arange(6).reshape(2, 3)],
]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_collate_as_pytorch(batch: Any) -> None:
    if not (isinstance(batch[0], np.ndarray) and batch[0].strides[-1] < 0):
        same(default_collate(batch), torch.utils.data.default_collate(batch))
    else:
        assert lists(default_collate(batch)) == [item.tolist() for item in batch]


def same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        assert str(mine.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1]
        assert mine.tolist() == theirs.tolist()
        return
    assert type(mine) is type(theirs)
    if isinstance(theirs, dict):
        assert list(mine) == list(theirs)
        for key in theirs:
            same(mine[key], theirs[key])
    elif isinstance(theirs, list | tuple) and not isinstance(theirs[0], str | bytes):
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)
    else:
        assert mine == theirs


def test_collate_refuses() -> None:
    with pytest.raises(TypeError, match="default_collate: batch must contain"):
        default_collate([object()])
    with pytest.raises(TypeError, match="default_collate: batch must contain"):
        default_collate([np.array(["a"])])
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([[1, 2], [3]])


def test_batches_in_order() -> None:
    loader = DataLoader(Squares(5), batch_size=2)
    assert len(loader) == 3
    assert lists(list(loader)) == [
        [[[0, 0], [1, 1]], [0, 1]],
        [[[2, 4], [3, 9]], [2, 3]],
        [[[4, 16]], [4]],
    ]
    assert len(DataLoader(Squares(5), batch_size=2, drop_last=True)) == 2
    assert lists([index for _, index in DataLoader(Squares(5), batch_size=2, drop_last=True)]) == [[0, 1], [2, 3]]
    assert [index for _, index in DataLoader(Squares(2), batch_size=None)] == [0, 1]
    assert lists(list(DataLoader([1, 2, 3], batch_size=2, collate_fn=sum))) == [3, 3]
    assert lists([i for _, i in DataLoader(Squares(5), sampler=[4, 0])]) == [[4], [0]]
    assert lists([i for _, i in DataLoader(Squares(5), batch_sampler=[[4, 0], [1]])]) == [[4, 0], [1]]


def test_shuffling_is_seeded_and_new_each_time() -> None:
    loader = DataLoader(Squares(50), batch_size=50, shuffle=True, generator=tj.Generator().manual_seed(1))
    orders = [lists(index) for _ in range(2) for _, index in loader]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] != orders[1]
    other = DataLoader(Squares(50), batch_size=50, shuffle=True, generator=tj.Generator().manual_seed(1))
    assert [lists(index) for _ in range(2) for _, index in other] == orders
    tj.manual_seed(3)
    first = [lists(index) for _, index in DataLoader(Squares(50), batch_size=10, shuffle=True)]
    tj.manual_seed(3)
    assert [lists(index) for _, index in DataLoader(Squares(50), batch_size=10, shuffle=True)] == first


class Plain(Dataset):
    """A TensorDataset that the loader does not know as one."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __len__(self) -> int:
        return len(self.data)


def test_tensors_are_indexed_at_once_with_the_same_result() -> None:
    data = TensorDataset(tj.randn(20, 3), tj.arange(20), tj.randn(20) > 0)
    for quick in (data, Subset(data, [3, 1, 4, 1, 5, 9]), Subset(Subset(data, list(range(19, -1, -1))), [0, -1])):
        for a, b in zip(DataLoader(quick, batch_size=4), DataLoader(Plain(quick), batch_size=4), strict=True):
            assert type(a) is type(b)
            for x, y in zip(a, b, strict=True):
                assert x.dtype == y.dtype
                assert x.tolist() == y.tolist()
    (batch, *_) = next(iter(DataLoader(data, batch_size=20)))
    batch.fill_(0.0)
    assert float(data.tensors[0].abs().sum()) > 0
    with pytest.raises(IndexError):
        list(DataLoader(Subset(data, [20])))


def test_iterated_datasets() -> None:
    assert lists(list(DataLoader(Stream(5), batch_size=2))) == [[0, 1], [2, 3], [4]]
    assert lists(list(DataLoader(Stream(5), batch_size=2, drop_last=True))) == [[0, 1], [2, 3]]
    assert list(DataLoader(Stream(3), batch_size=None)) == [0, 1, 2]
    batches = lists(list(DataLoader(Stream(9), batch_size=2, num_workers=2)))
    assert sorted(i for batch in batches for i in batch) == list(range(9))
    assert batches[:2] == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(Stream(3), shuffle=True)
    with pytest.raises(ValueError, match="sampler"):
        DataLoader(Stream(3), sampler=[1])


@pytest.mark.usefixtures("no_gpu")
def test_wrong_options_as_pytorch() -> None:
    for make, data in ((DataLoader, [1, 2]), (torch.utils.data.DataLoader, [1, 2])):
        for options in (
            {"num_workers": -1},
            {"timeout": -1},
            {"prefetch_factor": 2},
            {"persistent_workers": True},
            {"sampler": [1], "shuffle": True},
            {"batch_sampler": [[1]], "batch_size": 2},
            {"batch_size": None, "drop_last": True},
            {"batch_size": 0},
        ):
            with pytest.raises(ValueError):
                make(data, **options)
    with pytest.raises(ValueError):
        DataLoader([1], num_workers=1, prefetch_factor=0)
    with pytest.raises(NotImplementedError):
        DataLoader([1], num_workers=1, persistent_workers=True)
    with pytest.raises(NotImplementedError):
        DataLoader([1], num_workers=1, multiprocessing_context="spawn")
    with pytest.warns(UserWarning, match="pin_memory"):
        DataLoader([1], pin_memory=True)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_give_the_same_batches_in_order(workers: int) -> None:
    expected = lists(list(DataLoader(Squares(23), batch_size=4)))
    loader = DataLoader(Squares(23), batch_size=4, num_workers=workers)
    assert lists(list(loader)) == expected
    assert lists(list(loader)) == expected
    tj.manual_seed(5)
    order = [lists(i) for _, i in DataLoader(Squares(23), batch_size=4, shuffle=True)]
    after = tj.rand(1).item()
    tj.manual_seed(5)
    assert [lists(i) for _, i in DataLoader(Squares(23), batch_size=4, shuffle=True, num_workers=workers)] == order
    assert tj.rand(1).item() == after


class Slow(Dataset):
    """The first examples take longest."""

    def __getitem__(self, index: int) -> int:
        time.sleep(0.1 if index < 2 else 0.0)
        return index

    def __len__(self) -> int:
        return 8


def test_a_slow_worker_does_not_change_the_order() -> None:
    assert lists(list(DataLoader(Slow(), batch_size=1, num_workers=2))) == [[i] for i in range(8)]


class Large(Dataset):
    """Batches and lists of indices beyond what a pipe holds."""

    def __getitem__(self, index: int) -> Any:
        return tj.full((4,), float(index))

    def __len__(self) -> int:
        return 120_000


def test_large_batches_do_not_block() -> None:
    loader = DataLoader(Large(), batch_size=40_000, num_workers=1, collate_fn=_first)
    assert [batch[0] for batch in loader] == [0.0, 40_000.0, 80_000.0]


def _first(batch: list[Any]) -> Any:
    return [item[0].item() for item in batch] * 8


class Broken(Dataset):
    def __init__(self, error: Any) -> None:
        self.error = error

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise self.error
        return index

    def __len__(self) -> int:
        return 8


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("a bad example"), ValueError), (KeyError("a bad example"), KeyError), (Odd(1, 2), RuntimeError)],
)
def test_a_workers_error_is_raised_with_its_traceback(error: Exception, kind: type[Exception]) -> None:
    batches = iter(DataLoader(Broken(error), batch_size=1, num_workers=2))
    assert [next(batches).item() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind) as caught:
        next(batches)
    text = str(caught.value)
    assert "in DataLoader worker process 1" in text
    assert "\n" in text
    assert "raise self.error" in text


class Dying(Dataset):
    def __getitem__(self, index: int) -> int:
        if index == 2:
            os._exit(7)
        return index

    def __len__(self) -> int:
        return 4


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker 0 \(pid \d+\) exited unexpectedly with exit code 7"):
        list(DataLoader(Dying(), batch_size=1, num_workers=2))


def test_a_worker_that_takes_too_long_is_told() -> None:
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out"):
        list(DataLoader(Sleeping(), num_workers=1, timeout=0.2))
    assert time.monotonic() - started < 5


class Sleeping(Dataset):
    def __getitem__(self, index: int) -> int:
        time.sleep(60)
        return index

    def __len__(self) -> int:
        return 1


class Unsendable(Dataset):
    def __getitem__(self, index: int) -> Any:
        return lambda: index

    def __len__(self) -> int:
        return 1


def test_a_batch_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(RuntimeError, match="in DataLoader worker process 0"):
        list(DataLoader(Unsendable(), num_workers=1, collate_fn=_same))


def _same(batch: Any) -> Any:
    return batch


class Told(Dataset):
    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        return info.id, info.num_workers, os.environ.get("TOLD", ""), float(np.random.rand()), tj.rand(1).item()

    def __len__(self) -> int:
        return 4


def _tell(number: int) -> None:
    os.environ["TOLD"] = f"worker {number}"


def test_workers_know_themselves_and_draw_their_own_numbers() -> None:
    assert get_worker_info() is None
    rows = list(DataLoader(Told(), batch_size=None, num_workers=2, worker_init_fn=_tell))
    assert [row[:3] for row in rows] == [[i % 2, 2, f"worker {i % 2}"] for i in range(4)]
    assert len({row[3] for row in rows}) == len({row[4] for row in rows}) == 4
    assert "TOLD" not in os.environ


def test_leaving_early_ends_the_workers() -> None:
    import multiprocessing

    for batch in DataLoader(Squares(100), batch_size=1, num_workers=2):
        assert batch[1].item() == 0
        break
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
