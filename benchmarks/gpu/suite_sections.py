"""The suite's sections: what the machine is, kernels one by one, models, and every operation against the CPU."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tracejit as tj
from benchmarks.gpu.suite_models import run_models
from benchmarks.gpu.timed import Timed, timed
from tests.cuda.on_gpu import gpu, run_on
from tests.ops.cases import FOR_CPUS, Case, cases
from tests.programs import graph_of, make, run_eagerly
from tracejit import dtypes
from tracejit.gpu_compiler import compile_for_gpu
from tracejit.ir import node as nodes
from tracejit.ops import Op, ops
from tracejit.runtime.cuda import cublas
from tracejit.runtime.cuda.driver import Context, Driver
from tracejit.runtime.cuda.memory import Block, Pool

ROUNDS = 5
_KEPT = 1 << 20
"""Elements of a result that are compared."""
_CHECKED = (dtypes.float32, dtypes.float16, dtypes.int32)


class Session:
    """A section while it runs: what it notes is in its file at once."""

    def __init__(self, section: str, out: Path, seconds: float, tiny: bool) -> None:
        self.tiny = tiny
        self._file = out / f"{section}.jsonl"
        self._end = time.monotonic() + seconds

    def note(self, name: str, value: Any) -> None:
        """Keeps a figure; those of one name that are dicts are put together."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, value]) + "\n")

    @property
    def left(self) -> float:
        """Seconds until the section must end."""
        return self._end - time.monotonic()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part whose failure is noted and does not end the section."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self.note(name, {"wrong": f"{type(error).__name__}: {error}"[:300]})


def _device(tiny: bool) -> tuple[Context, Pool]:
    if tiny:
        library = importlib.import_module("tests.cuda.libcuda").Library(memory=1 << 21)
        driver = Driver(library)
        context = Context(driver, driver.devices()[0])
        return context, Pool(context)
    found = gpu()
    if found is None:
        raise RuntimeError("there is no GPU that the driver can use")
    return found


def _torch(session: Session) -> Any:
    """PyTorch, if it is there and sees the GPU."""
    if session.tiny or importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


# --- machine ----------------------------------------------------------------------------------------------------------


def _machine(session: Session) -> None:
    context, _ = _device(session.tiny)
    session.note("device", context.device.name)
    session.note("driver", context.driver.version)
    session.note("capability", context.device.capability / 10)
    session.note("tracejit", tj.__version__)
    session.note("numpy", np.__version__)
    session.note("is_available", tj.cuda.is_available())
    with session.part("cublas"):
        there = cublas.is_there(context)
        session.note("cublas", cublas.handle_of(context).version if there else "none")
    torch = _torch(session)
    if torch is not None:
        session.note("torch", torch.__version__)
        session.note("torch driver and toolkit", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")


# --- kernels ----------------------------------------------------------------------------------------------------------


class _OnGpu:
    """A graph with its inputs on the device."""

    def __init__(self, context: Context, pool: Pool, held: dict[int, Block], one: Timed) -> None:
        graph = one.graph
        self.context = context
        self.program = compile_for_gpu(graph, context, pool)
        self.inputs = []
        for array in one.arrays:
            if id(array) not in held:
                held[id(array)] = pool.allocate(array.nbytes)
                context.put(held[id(array)].address, array)
            self.inputs.append(held[id(array)].address)
        self.nodes = graph.outputs
        self.blocks = [pool.allocate(n.tensor.numel * n.dtype.itemsize) for n in graph.outputs]
        self.outputs = [block.address for block in self.blocks]

    def start(self) -> None:
        """Asks for the launches, captured before only if they are not to be captured now."""
        self.program.run(self.inputs, self.outputs, np.zeros(0, np.int64), capture=self.program.fails)

    def result(self) -> np.ndarray:
        """The first elements of the first result."""
        node = self.nodes[0]
        found = np.empty(min(node.tensor.numel, _KEPT), node.dtype.np)
        self.context.take(found, self.outputs[0])
        return found

    def microseconds(self) -> float:
        """The least time of a run, of several in one captured graph."""
        self.start()
        self.context.synchronize()
        once = self._timed(1)
        return self._timed(max(2, min(100, int(20_000 / max(once, 1.0)))))

    def _timed(self, repeats: int) -> float:
        graph = None if self.program.fails else self.context.capture(lambda: self._many(repeats))
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            if graph is None:
                # Each run waits for what its kernels found, which cannot be captured.
                self._many(repeats)
            else:
                self.context.replay(graph)
            self.context.synchronize()
            times.append((time.perf_counter() - begin) * 1e6 / repeats)
        if graph is not None:
            self.context.drop(graph)
        return min(times[1:])

    def _many(self, repeats: int) -> None:
        for _ in range(repeats):
            self.start()


def _kernels(session: Session) -> None:
    context, pool = _device(session.tiny)
    all_of_them = timed(session.tiny)
    held: dict[int, Block] = {}
    results: dict[str, np.ndarray] = {}
    for one in all_of_them:
        with session.part(one.name):
            on_gpu = _OnGpu(context, pool, held, one)
            us = on_gpu.microseconds()
            results[one.name] = on_gpu.result()
            figures = {"us": us}
            if one.nbytes:
                figures["GB/s"] = one.nbytes / us / 1e3
            if one.flops:
                figures["TFLOP/s"] = one.flops / us / 1e6
            session.note(one.name, figures)
            if session.tiny:
                _compare(session, one.name, results[one.name], run_eagerly(one.graph, list(one.arrays))[0])
            del on_gpu
    torch = _torch(session)
    if torch is not None:
        _peers(session, torch, all_of_them, results)


def _compare(session: Session, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    wide, other = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()[: ours.size]
    off = float(np.linalg.norm(wide - other) / max(float(np.linalg.norm(other)), 1e-30))
    session.note(name, {"off": off} | ({} if off < 1e-4 else {"wrong": f"differs by {off:.2g}"}))


def _peers(session: Session, torch: Any, all_of_them: list[Timed], results: dict[str, np.ndarray]) -> None:
    """PyTorch, eager for all of them first; then compiled, as far as the time goes."""
    device_us = importlib.import_module("benchmarks.gpu.session").device_us
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    known: dict[int, Any] = {}

    def given(one: Timed) -> list[Any]:
        for array in one.arrays:
            if id(array) not in known:
                known[id(array)] = torch.from_numpy(array).cuda()
        return [known[id(array)] for array in one.arrays]

    for one in all_of_them:
        if session.left < 1:
            session.note("torch", "not all of it, for want of time")
            return
        with session.part(f"{one.name}, torch"):
            function, tensors = one.peer(torch), given(one)
            found = function(*tensors)
            if isinstance(found, torch.Tensor) and one.name in results:
                first = found.detach().reshape(-1)[:_KEPT].float().cpu().numpy()
                _compare(session, one.name, results[one.name], first)
            session.note(one.name, {"torch": device_us(lambda f=function, t=tensors: f(*t), repeats=10, rounds=5)})
    for label, mode in (("torch.compile", None), ("torch max-autotune", "max-autotune-no-cudagraphs")):
        for one in all_of_them:
            if session.left < (30 if mode else 15):
                session.note("torch compiled", "not all of it, for want of time")
                return
            # What PyTorch hands to a library either way gains nothing by being compiled.
            if one.name.startswith(("conv", "attention", "Adam")) or (mode and not one.flops):
                continue
            with session.part(f"{one.name}, {label}"):
                compiled, tensors = torch.compile(one.peer(torch), mode=mode), given(one)
                us = device_us(lambda f=compiled, t=tensors: f(*t), repeats=10, rounds=5)
                session.note(one.name, {label: us})
                torch.compiler.reset()


# --- checks -----------------------------------------------------------------------------------------------------------


def _graph_of(op: Op, case: Case, arrays: list[Any]) -> Any:
    """The graph of a case: arrays are inputs, numbers stand in it."""
    places = [k for k, array in enumerate(arrays) if isinstance(array, np.ndarray)]

    def build(*inputs: nodes.Node) -> tuple[nodes.Node, ...]:
        operands = list(arrays)
        for place, node in zip(places, inputs, strict=True):
            operands[place] = node
        made = make(op.name, *operands, **case.attrs)
        return tuple(nodes.item(made, k) for k in range(len(op.results))) if len(op.results) > 1 else (made,)

    return graph_of(build, *(arrays[k] for k in places)), [arrays[k] for k in places]


def _near(result: np.ndarray, wanted: np.ndarray) -> bool:
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(result, wanted))
    bound = 64 * float(np.finfo(wanted.dtype).eps)
    scale = float(np.max(np.abs(np.nan_to_num(wanted, posinf=0.0, neginf=0.0)), initial=0.0))
    return bool(np.allclose(result, wanted, rtol=bound, atol=bound * scale, equal_nan=True))


def _checks(session: Session) -> None:
    context, pool = _device(session.tiny)
    done, left_out = 0, []
    names = ("add", "softmax", "sum", "matmul", "conv2d", "max_pool2d", "take", "avg_pool2d_grad")
    wanted = [op for op in ops if not session.tiny or op.name in names]
    for kind in _CHECKED[:1] if session.tiny else _CHECKED:
        for op in wanted:
            if session.left < 1:
                session.note("left out for want of time", f"{op.name} in {kind.name} and what follows")
                session.note("checked", done)
                return
            for number, case in enumerate(cases(op)):
                name = f"{op.name} {kind.name} {number}"
                if op.name in FOR_CPUS or (kind.name[0] == "i" and "i" not in op.kinds):
                    continue
                with session.part(name):
                    graph, arrays = _graph_of(op, case, case.build(kind))
                    try:
                        found = run_on(context, pool, graph, [np.array(a, copy=True) for a in arrays])
                    except NotImplementedError as error:
                        left_out.append(f"{name}: {error}"[:80])
                        continue
                    expected = run_eagerly(graph, arrays)
                    wrong = [k for k, both in enumerate(zip(found, expected, strict=True)) if not _near(*both)]
                    done += 1
                    if wrong:
                        session.note(name, {"wrong": f"result {wrong[0]} differs from the CPU's"})
    session.note("checked", done)
    session.note("no kernels for", sorted(set(left_out))[:20])


def _models(session: Session) -> None:
    run_models(session, _torch(session))


_RUN: dict[str, Callable[[Session], None]] = {
    "machine": _machine,
    "kernels": _kernels,
    "models": _models,
    "checks": _checks,
}


def _stand_in(tiny: bool) -> contextlib.AbstractContextManager[Any]:
    """While this lasts, tensors can be on the stand-in, if that is what is wanted, and tensors can be on GPUs."""
    if not tiny or importlib.util.find_spec("tests.cuda.standin") is None:
        return contextlib.nullcontext()
    library = importlib.import_module("tests.cuda.libcuda").Library(memory=1 << 22)
    place: contextlib.AbstractContextManager[Any] = importlib.import_module("tests.cuda.standin").stand_in(library)
    return place


def run(section: str, out: Path, seconds: float, tiny: bool) -> None:
    """Runs one section in this process."""
    with _stand_in(tiny):
        _RUN[section](Session(section, out, seconds, tiny))
