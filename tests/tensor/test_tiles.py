"""Products on tiles, as programs meet them: of bfloat16, under autocast, and of float32 that need not be exact."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.kernels.chains import square_reference
from tests.kernels.test_gemm import laid_out
from tracejit.cpu import multiplies_bfloat16
from tracejit.tensor import products
from tracejit.trace.compiled import region_of

needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="the CPU has neither AMX nor AVX512-BF16, or the settings switch them off"
)
F = tj.nn.functional


@pytest.fixture
def precision() -> Iterator[Callable[[str], None]]:
    """Sets how exact products of float32 are, until the test ends."""
    before = tj.get_float32_matmul_precision()
    yield tj.set_float32_matmul_precision
    tj.set_float32_matmul_precision(before)


def draw(rng: np.random.Generator, kind: Any, *shape: int, grad: bool = False) -> tj.Tensor:
    values = rng.standard_normal(shape).astype(np.float32)
    return tj.tensor(values).to(kind).requires_grad_(grad)


def bits(results: Any) -> list[bytes]:
    return [x.detach().float().contiguous().numpy().tobytes() for x in results]


def product(a: tj.Tensor, b: tj.Tensor) -> np.ndarray:
    """The float32 product on tiles."""
    return square_reference(*(x.float().numpy() for x in (a, b)))


def is_product(found: tj.Tensor, expected: np.ndarray) -> bool:
    """Whether a tensor holds what is expected, rounded to its type."""
    rounded = expected.astype(found.dtype.np).astype(np.float32)
    return found.float().numpy().tobytes() == np.ascontiguousarray(rounded).tobytes()


@needs_bfloat16
@pytest.mark.parametrize("kind", [tj.bfloat16, tj.float32], ids=repr)
def test_fronts_have_the_bits_of_tiles(kind: Any, precision: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    a, b, c = draw(rng, kind, 40, 70), draw(rng, kind, 70, 33), draw(rng, kind, 3, 40, 70)
    stack, bias, weight = draw(rng, kind, 3, 70, 33), draw(rng, kind, 33), draw(rng, kind, 33, 70)
    if kind is tj.float32:
        precision("medium")
    assert is_product(a @ b, product(a, b))
    assert is_product(tj.mm(a, b), product(a, b))
    assert is_product(c @ b, product(c, b))
    assert is_product(tj.bmm(c, stack), product(c, stack))
    assert is_product(a @ stack, product(a.expand(3, 40, 70), stack))
    assert is_product(tj.einsum("ij,jk->ik", a, b), product(a, b))
    assert is_product(F.linear(c, weight), product(c, weight.T))
    assert is_product(F.linear(c, weight, bias), product(c, weight.T) + bias.float().numpy())
    assert is_product(tj.addmm(bias, a, b), (a @ b).float().numpy() + bias.float().numpy())
    for layout in ("columns", "gaps"):
        turned = tj.from_numpy(laid_out(a.float().numpy(), layout)).to(kind)
        assert is_product(turned @ b, product(a, b))


@needs_bfloat16
def test_small_products_and_other_types_stay_as_they_are(precision: Callable[[str], None]) -> None:
    rng = np.random.default_rng(1)
    cases = [((8, 512), (512, 512)), ((512, 512), (512, 8)), ((512, 31), (31, 512)), ((16, 63), (63, 32))]
    operands = [[draw(rng, tj.float32, *shape) for shape in shapes] for shapes in cases]
    wide = [x.double() for x in (draw(rng, tj.float32, 64, 64), draw(rng, tj.float32, 64, 64))]
    halves = [x.half() for x in wide]
    exact = [bits([a @ b]) for a, b in (*operands, wide, halves)]
    precision("medium")
    assert [bits([a @ b]) for a, b in (*operands, wide, halves)] == exact


@needs_bfloat16
def test_only_medium_rounds(precision: Callable[[str], None]) -> None:
    rng = np.random.default_rng(2)
    a, b = draw(rng, tj.float32, 64, 64), draw(rng, tj.float32, 64, 64)
    found = {}
    for name in ("highest", "high", "medium"):
        precision(name)
        found[name] = bits([a @ b])
    assert found["highest"] == found["high"] != found["medium"]


def test_without_tiles_nothing_changes(precision: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    rng = np.random.default_rng(3)
    a, b = draw(rng, tj.float32, 64, 64), draw(rng, tj.float32, 64, 64)
    exact = bits([a @ b])
    short = bits([a.bfloat16().float() @ b.bfloat16().float()])
    precision("medium")
    assert bits([a @ b]) == exact
    assert bits([a.bfloat16() @ b.bfloat16()]) == bits([tj.tensor(np.frombuffer(short[0], np.float32)).bfloat16()])


OFF = """
import numpy as np, tracejit as tj
from tracejit.cpu import multiplies_bfloat16
tj.set_float32_matmul_precision("medium")
a, b = (tj.tensor(np.random.default_rng(s).standard_normal((64, 64)).astype(np.float32)) for s in (1, 2))
f = tj.compile(lambda a, b: (a @ b, a.bfloat16() @ b.bfloat16()))
found = [[x.float().numpy().tobytes() for x in f(a, b)] for _ in range(4)]
assert all(x == found[0] for x in found)
print(multiplies_bfloat16(), np.abs(a.numpy().astype(float) @ b.numpy() - (a @ b).numpy()).max() < 1e-4)
"""


@pytest.mark.parametrize("amx", ["0", "1"])
def test_a_setting_switches_tiles_off(amx: str) -> None:
    allowed = {"TRACEJIT_AMX": amx, "TRACEJIT_AVX512_BF16": amx}
    environment = {**os.environ, **allowed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", OFF], env=environment, capture_output=True, text=True, check=True)
    tiles, exact = done.stdout.split()
    assert tiles != exact
    assert amx == "1" or tiles == "False"


# --- compiled programs ------------------------------------------------------------------------------------------------


class Network:
    """A small transformer's parts: linear layers with and without bias, attention in pieces, a loop with one matrix."""

    def __init__(self, kind: Any, width: int = 48) -> None:
        rng = np.random.default_rng(7)
        self.x = draw(rng, kind, 3, 40, width)
        self.weights = [draw(rng, kind, width, width, grad=True) for _ in range(5)]
        self.bias = draw(rng, kind, width, grad=True)

    def forward(self) -> tj.Tensor:
        w, x = self.weights, self.x
        q, k = F.linear(x, w[0], self.bias), F.linear(x, w[1])
        scores = tj.softmax(q @ k.transpose(-2, -1) * 0.1, -1)
        h = F.gelu(scores @ (x @ w[2]))
        state = h[:, 0]
        for step in range(1, 4):
            state = tj.tanh(h[:, step] @ w[3] + F.linear(state, w[4], self.bias))
        return (h * h).mean() + (state * state).sum()

    def step(self) -> list[tj.Tensor]:
        for p in (*self.weights, self.bias):
            p.grad = None
        loss = self.forward()
        loss.backward()
        return [loss, *(p.grad for p in (*self.weights, self.bias))]


def autocast_step(network: Network) -> list[tj.Tensor]:
    for p in (*network.weights, network.bias):
        p.grad = None
    with tj.autocast("cpu"):
        loss = network.forward()
    loss.backward()
    return [loss, *(p.grad for p in (*network.weights, network.bias))]


WAYS: dict[str, tuple[str, Any, Callable[[Network], list[tj.Tensor]]]] = {
    "bfloat16": ("highest", tj.bfloat16, Network.step),
    "autocast": ("highest", tj.float32, autocast_step),
    "medium": ("medium", tj.float32, Network.step),
    "autocast in medium": ("medium", tj.float32, autocast_step),
}


def kernels(compiled: Any) -> set[str]:
    return {k.name for _, e in region_of(compiled).executables() for k in e.built.compiled.kernels}


@pytest.mark.parametrize("mode", ["follow", "auto"])
@pytest.mark.parametrize("way", WAYS)
def test_compiled_has_the_bits_of_eager(way: str, mode: str, precision: Callable[[str], None]) -> None:
    level, kind, step = WAYS[way]
    precision(level)
    network = Network(kind)
    expected = bits(step(network))
    run = tj.compile(lambda: step(network), mode=mode, verify="first")
    for _ in range(8):
        assert bits(run()) == expected
    assert region_of(run).calls.followed > 0
    assert bool(kernels(run) & {"square_f32", "square_bf16"}) == multiplies_bfloat16()


@pytest.mark.parametrize("way", WAYS)
def test_threads_change_no_bit(way: str, precision: Callable[[str], None]) -> None:
    level, kind, step = WAYS[way]
    precision(level)
    network = Network(kind, width=96)
    run, before, found = tj.compile(lambda: step(network)), tj.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            tj.set_num_threads(threads)
            found += [bits(step(network)), *(bits(run()) for _ in range(5))]
    finally:
        tj.set_num_threads(before)
    assert all(x == found[0] for x in found)


@pytest.mark.parametrize("mode", ["follow", "auto"])
def test_a_program_is_for_the_precision_it_was_compiled_with(mode: str, precision: Callable[[str], None]) -> None:
    network = Network(tj.float32)
    expected = {}
    for level in ("highest", "medium"):
        precision(level)
        expected[level] = bits(network.step())
    assert (expected["highest"] != expected["medium"]) == multiplies_bfloat16()
    run = tj.compile(network.step, mode=mode)
    for level in ("highest", "medium", "high", "medium", "highest"):
        precision(level)
        for _ in range(7):
            assert bits(run()) == expected["highest" if level == "high" else level]


def test_the_precision_may_change_inside_of_a_program(precision: Callable[[str], None]) -> None:
    rng = np.random.default_rng(4)
    x, w, v = (draw(rng, tj.float32, 64, 64, grad=True) for _ in range(3))
    level = ["highest"]

    def step() -> list[tj.Tensor]:
        tj.set_float32_matmul_precision(level[0])
        y = F.linear(x, w)
        tj.set_float32_matmul_precision("medium")
        z = (y @ v).sum()
        w.grad = None
        # How exact the gradients are was said when the products were computed.
        tj.set_float32_matmul_precision("highest")
        z.backward()
        return [y, z, w.grad]

    run = tj.compile(step)
    for level[0] in ("highest", "medium", "highest", "medium"):
        expected = bits(step())
        for _ in range(5):
            assert bits(run()) == expected


def test_other_sizes_may_be_too_small_for_tiles(precision: Callable[[str], None]) -> None:
    precision("medium")
    rng = np.random.default_rng(5)
    w = draw(rng, tj.float32, 64, 64, grad=True)

    def step(x: tj.Tensor) -> list[tj.Tensor]:
        w.grad = None
        y = F.linear(x, w).relu() @ w
        y.sum().backward()
        return [y, w.grad]

    run = tj.compile(step)
    for rows in (64, 64, 64, 40, 8, 33, 7, 64, 8, 100, 16, 15):
        x = draw(rng, tj.float32, rows, 64)
        expected = bits(step(x))
        for _ in range(2):
            assert bits(run(x)) == expected


@needs_bfloat16
def test_second_gradients_are_products_on_tiles(precision: Callable[[str], None]) -> None:
    precision("medium")
    rng = np.random.default_rng(6)
    x, w, v = (draw(rng, tj.float32, 48, 48, grad=True) for _ in range(3))

    def step() -> list[tj.Tensor]:
        (g,) = tj.autograd.grad((tj.tanh(x @ w) @ v).sum(), [w], create_graph=True)
        return [g, *tj.autograd.grad((g * g).sum(), [x, w, v])]

    run, expected = tj.compile(step), bits(step())
    for _ in range(5):
        assert bits(run()) == expected


KEPT = """
import sys
import numpy as np, tracejit as tj
from tests.tensor.test_tiles import Network, bits
from tracejit.trace.compiled import region_of
tj.set_float32_matmul_precision(sys.argv[1])
network = Network(tj.float32)
run = tj.compile(network.step, background=sys.argv[2] == "background")
found = [bits(run()) for _ in range(30)]
assert all(x == found[0] for x in found)
assert found[0] == bits(network.step())
calls = region_of(run).calls
print(found[0][0].hex(), calls.cold)
"""


@pytest.mark.parametrize("how", ["waits", "background"])
def test_what_is_on_disk_is_for_its_own_precision(how: str, tmp_path: Any) -> None:
    environment = {
        **os.environ, "TRACEJIT_CACHE_DIR": str(tmp_path), "TRACEJIT_TREES": "1",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]),
    }  # fmt: skip
    found = []
    for level in ("medium", "highest", "medium"):
        command = [sys.executable, "-c", KEPT, level, how]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert found[0][0] == found[2][0]
    assert (found[0][0] != found[1][0]) == multiplies_bfloat16()
    # Where another process compiles, a tree may not have settled when the process ends.
    assert [cold for _, cold in found][:2] == ["1", "1"]
    assert how == "background" or found[2][1] == "0"


FORK = """
import os
import numpy as np, tracejit as tj
from tests.tensor.test_tiles import Network, bits
network = Network(tj.bfloat16)
run = tj.compile(network.step)
if {first}:
    expected = [bits(run()) for _ in range(5)]
child = os.fork()
found = [bits(run()) for _ in range(5)]
assert all(x == found[0] for x in found)
assert found[0] == bits(network.step())
if not child:
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("first", [False, True])
def test_a_forked_process_multiplies_on_tiles(first: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", FORK.format(first=first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
