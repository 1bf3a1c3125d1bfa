"""save and load: what comes back, what is refused, what damage does."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest

import tracejit as tj
from tracejit import dtypes


def back(obj: Any, **options: Any) -> Any:
    file = io.BytesIO()
    tj.save(obj, file)
    file.seek(0)
    return tj.load(file, **options)


@pytest.mark.parametrize("dtype", [d.name for d in dtypes.ALL])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_tensors_of_every_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    count = 1
    for size in shape:
        count *= size
    t = (tj.arange(count) % 2 if dtype == "bool" else tj.arange(count)).reshape(shape).to(getattr(tj, dtype))
    again = back(t)
    assert again.dtype == t.dtype
    assert tuple(again.shape) == shape
    assert again.tolist() == t.tolist()
    if count:
        again.fill_(1)


def test_structure() -> None:
    obj = {
        "list": [1, 2.5, None, True, "text", b"bytes", 2**80, 1 + 2j],
        "tuple": (1, (2,)),
        "set": {1, 2},
        "frozen": frozenset([3]),
        "ordered": OrderedDict(a=1),
        "counter": Counter("aab"),
        "default": defaultdict(list, {"a": [1]}),
        "shape": tj.zeros(2, 3).shape,
        "dtype": tj.float16,
        3: bytearray(b"x"),
    }
    again = back(obj)
    assert again == obj
    assert [type(value) for value in again.values()] == [type(value) for value in obj.values()]
    assert again["dtype"] is tj.float16


def test_flags_and_classes() -> None:
    w = tj.nn.Parameter(tj.ones(2), requires_grad=False)
    t = tj.ones(2, requires_grad=True)
    a, b, c = back([w, t, t * 2])
    assert type(a) is tj.nn.Parameter
    assert not a.requires_grad
    assert type(b) is tj.Tensor
    assert b.requires_grad
    assert c.is_leaf
    assert c.tolist() == [2.0, 2.0]


def test_layout_is_kept() -> None:
    t = tj.arange(6).reshape(2, 3)
    turned, wide = back([t.t(), tj.ones(1, 3).expand(4, 3)])
    assert turned.tolist() == t.t().tolist()
    assert turned.stride() == (1, 3)
    assert wide.stride()[0] == 0
    assert wide.tolist() == [[1.0] * 3] * 4


def test_the_same_tensor_stays_one() -> None:
    t = tj.ones(2)
    a, b = back([t, t])
    assert a is b


def test_overlapping_views_share_memory_again() -> None:
    base = tj.zeros(4, 4)
    whole, row, column, tail = back([base, base[1], base[:, 2], base[2:]])
    whole.fill_(5.0)
    assert row.tolist() == column.tolist() == [5.0] * 4
    column.fill_(7.0)
    assert whole[3, 2].item() == tail[1, 2].item() == 7.0
    left, right = back([base[:, 0], base[:, 1]])
    left.fill_(9.0)
    assert right.tolist() == [0.0] * 4


def test_tied_parameters_in_a_state_dict() -> None:
    net = tj.nn.Sequential(tj.nn.Linear(3, 3), tj.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    state = back(net.state_dict())
    state["0.weight"].fill_(2.0)
    assert state["1.weight"].tolist() == [[2.0] * 3] * 3
    assert isinstance(state, OrderedDict)
    net.load_state_dict(state)


def test_a_small_view_makes_a_small_file() -> None:
    file = io.BytesIO()
    tj.save(tj.zeros(1000, 1000)[:, 0], file)
    assert file.tell() < 20_000
    file.seek(0)
    assert tuple(tj.load(file).shape) == (1000,)


@pytest.mark.usefixtures("no_gpu")
def test_files_and_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "a.tj", str(tmp_path / "b.tj")):
        tj.save([1], path)
        assert tj.load(path) == [1]
    with (tmp_path / "c.tj").open("wb") as file:
        tj.save([2], file)
    with (tmp_path / "c.tj").open("rb") as file:
        assert tj.load(file, map_location="cpu") == [2]
    with pytest.raises(FileNotFoundError):
        tj.load(tmp_path / "missing")
    with pytest.raises(RuntimeError, match="'cuda' is not available"):
        tj.load(tmp_path / "c.tj", map_location="cuda")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tj"
    tj.save([1], path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        tj.save([lambda: 1], path)
    assert tj.load(path) == [1]
    assert os.listdir(tmp_path) == ["a.tj"]


class Note:
    def __init__(self, text: str) -> None:
        self.text = text


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


def test_only_weights_unless_trusted() -> None:
    for obj in (Note("x"), Evil(), tj.nn.Linear(2, 2), print, [os.path.join]):
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            back(obj)
    assert back(Note("x"), weights_only=False).text == "x"
    net = tj.nn.Linear(2, 2)
    again = back(net, weights_only=False)
    assert again.weight.tolist() == net.weight.tolist()
    assert isinstance(again.weight, tj.nn.Parameter)


def saved() -> bytes:
    file = io.BytesIO()
    tj.save({"w": tj.arange(100), "b": [tj.ones(3), "text"]}, file)
    return file.getvalue()


def test_files_that_are_cut_off() -> None:
    whole = saved()
    for size in range(0, len(whole), 7):
        with pytest.raises(RuntimeError, match="load: "):
            tj.load(io.BytesIO(whole[:size]))


def test_files_that_are_damaged() -> None:
    whole = saved()
    expected = tj.load(io.BytesIO(whole))["w"].tolist()
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        try:
            obj = tj.load(io.BytesIO(bytes(damaged)))
        except (RuntimeError, pickle.UnpicklingError):
            refused += 1
        else:
            # The bit was in what the archive does not need, such as a date.
            assert obj["w"].tolist() == expected
    assert refused > 200


def test_other_files_and_wrong_tables() -> None:
    for content in (b"", b"text", pickle.dumps([1])):
        with pytest.raises(RuntimeError, match="load: "):
            tj.load(io.BytesIO(content))
    entries = {"format": b"tracejit 1", "structure.pkl": pickle.dumps([1])}
    good = (
        '{"byteorder": "little", "payloads": 1, "tensors": [{"class": "Tensor", "requires_grad": false, '
        '"dtype": "float32", "shape": [2], "strides": [1], "offset": 0, "payload": 0}]}'
    )
    assert tj.load(archive({**entries, "tensors.json": good.encode(), "data/0": bytes(8)})) == [1]
    for bad in (
        good.replace("[2]", "[3]"),
        good.replace("[2]", "[-2]"),
        good.replace('"strides": [1]', '"strides": [-1]'),
        good.replace('"offset": 0', '"offset": 1'),
        good.replace('"offset": 0', '"offset": -1'),
        good.replace("float32", "object"),
        good.replace('"payload": 0', '"payload": 1'),
        good.replace("little", "big"),
        "[]",
    ):
        with pytest.raises(RuntimeError, match="load: "):
            tj.load(archive({**entries, "tensors.json": bad.encode(), "data/0": bytes(8)}))
    with pytest.raises(RuntimeError, match="load: "):
        tj.load(archive({**entries, "format": b"tracejit 9", "tensors.json": good.encode(), "data/0": bytes(8)}))
    with pytest.raises(RuntimeError, match="load: "):
        tj.load(archive(entries))


def archive(entries: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name, content in entries.items():
            z.writestr(name, content)
    file.seek(0)
    return file
