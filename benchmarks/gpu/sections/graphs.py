"""CUDA graphs: what capture, instantiation, replay and changes cost, and what can be captured."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu import numba_kernels
from benchmarks.gpu.blas import WORKSPACE_BYTES, Blas
from benchmarks.gpu.driver import Driver, EarlyLaunch, Graph, Launch
from benchmarks.gpu.session import Session, error_of, seconds

SIZES = (5, 50, 300)
N = 256
REPLAYS = 20


def replay_us(driver: Driver, graph: Graph, stream: int, rounds: int = 15) -> dict[str, float]:
    """Medians of a replay: the host's part, the device's part in a row of replays, and alone until it is done."""
    external = torch.cuda.ExternalStream(stream)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    host, device, alone = [], [], []
    for _ in range(3):
        graph.replay(stream)
    for _ in range(rounds):
        driver.synchronize()
        begin.record(external)
        start = time.perf_counter()
        for _ in range(REPLAYS):
            graph.replay(stream)
        host.append((time.perf_counter() - start) / REPLAYS * 1e6)
        end.record(external)
        driver.synchronize()
        device.append(begin.elapsed_time(end) * 1e3 / REPLAYS)
        start = time.perf_counter()
        graph.replay(stream)
        external.synchronize()
        alone.append((time.perf_counter() - start) * 1e6)
    return {
        "host us": statistics.median(host),
        "device us": statistics.median(device),
        "until done us": statistics.median(alone),
    }


def _host_copy(driver: Driver, target: torch.Tensor, source: torch.Tensor, stream: int) -> None:
    driver.call(
        "cuMemcpyHtoDAsync_v2", ctypes.c_void_p(target.data_ptr()), ctypes.c_void_p(source.data_ptr()),
        ctypes.c_size_t(source.nbytes), ctypes.c_void_p(stream),
    )  # fmt: skip


def _kernels(session: Session, stream: int, launch: Launch) -> None:
    driver = session.driver
    for count in SIZES:

        def work(s: int, count: int = count) -> None:
            for _ in range(count):
                launch(s)

        captured, graph = seconds(lambda: Graph(driver, stream, work))
        instantiated, _ = seconds(graph.instantiate)
        found = replay_us(driver, graph, stream)
        found["us a node"] = found["device us"] / count
        session.note(
            f"{count} kernels",
            found | {"capture and instantiate us": captured * 1e6, "instantiate again us": instantiated * 1e6},
        )
        driver.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            work(stream)
        enqueued = time.perf_counter() - start
        driver.synchronize()
        whole = time.perf_counter() - start
        session.note(
            f"{count} kernels, launched one by one", {"host us": enqueued / 5 * 1e6, "until done us": whole / 5 * 1e6}
        )
        node = graph.nodes()[0]
        other = Launch(driver, launch.function, launch.grid, launch.threads, [v.value for v in launch.values])
        times = [seconds(lambda n=node, o=other, g=graph: g.set_parameters(n, o))[0] for _ in range(50)]  # type: ignore[misc]
        session.note(f"{count} kernels, new parameters of a node us", statistics.median(times) * 1e6)


def _early(session: Session, stream: int) -> None:
    """A chain in which each kernel reads what the one before wrote, with and without early starts."""
    a, b, one = torch.zeros(32, device="cuda"), torch.zeros(32, device="cuda"), torch.ones(32, device="cuda")
    count = 300
    for label, name, kind in (("in order", "small", Launch), ("early starts", "small_early", EarlyLaunch)):
        with session.part(label):
            first, second = (session.launch(name, 1, [x, one, y, 32]) for x, y in ((a, b), (b, a)))
            steps = [kind(session.driver, k.function, 1, 32, k.values) for k in (first, second)]

            def work(s: int, steps: list[Launch] = steps) -> None:
                for index in range(count):
                    steps[index % 2](s)

            graph = Graph(session.driver, stream, work)
            a.zero_()
            session.driver.synchronize()
            graph.replay(stream)
            session.driver.synchronize()
            right = bool((a == 3.0 * count).all())
            found = replay_us(session.driver, graph, stream)
            session.note(
                f"{count} kernels, each reading the last one's result, {label}",
                found | {"us a node": found["device us"] / count, "right": right},
            )


def _with_products(session: Session, stream: int, launch: Launch) -> None:
    """A product after every second kernel."""
    import cupy

    driver, blas = session.driver, Blas()
    a, b = (torch.randn(N, N, device="cuda") for _ in range(2))
    c = torch.empty_like(a)
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    reference = a.double() @ b.double()
    address = (a.data_ptr(), b.data_ptr(), c.data_ptr())
    external = cupy.cuda.ExternalStream(stream)
    arrays = [cupy.from_dlpack(t) for t in (a, b, c)]

    def by_ctypes(s: int) -> None:
        blas.product(N, N, N, *address, "tf32")

    def by_cupy(s: int) -> None:
        with external:
            cupy.matmul(arrays[0], arrays[1], out=arrays[2])

    def own_workspace() -> None:
        blas.use(stream, workspace.data_ptr())

    ways: tuple[tuple[str, Callable[[], None], Callable[[int], None]], ...] = (
        ("cuBLAS by ctypes, own workspace", own_workspace, by_ctypes),
        ("cuBLAS by ctypes, cuBLAS's workspace", lambda: Blas.use(blas, stream), by_ctypes),
        ("cuBLAS by CuPy", lambda: None, by_cupy),
    )
    for label, prepare, product in ways:
        with session.part(label):
            prepare()
            product(stream)
            driver.synchronize()

            def work(s: int, product: Callable[[int], None] = product) -> None:
                for _ in range(25):
                    launch(s)
                    launch(s)
                    product(s)

            took, graph = seconds(lambda work=work: Graph(driver, stream, work))  # type: ignore[misc]
            c.fill_(float("nan"))
            graph.replay(stream)
            driver.synchronize()
            session.note(
                f"50 kernels and 25 products, {label}",
                replay_us(driver, graph, stream)
                | {"capture us": took * 1e6, "nodes": graph.kinds(), "error": error_of(c, reference)},
            )


def _with_copies(session: Session, stream: int, launch: Launch) -> None:
    driver = session.driver
    for size in (256, 128 * 784 * 4):
        pinned = torch.arange(size // 4, dtype=torch.float32).pin_memory()
        target = torch.zeros(size // 4, device="cuda")

        def work(s: int, target: torch.Tensor = target, pinned: torch.Tensor = pinned) -> None:
            _host_copy(driver, target, pinned, s)
            for _ in range(50):
                launch(s)

        graph = Graph(driver, stream, work)
        pinned += 1
        graph.replay(stream)
        driver.synchronize()
        session.note(
            f"50 kernels behind a copy of {size} bytes from pinned memory",
            replay_us(driver, graph, stream)
            | {"nodes": graph.kinds(), "the new values arrive": bool(torch.equal(target.cpu(), pinned))},
        )

        def copy_alone(s: int, target: torch.Tensor = target, pinned: torch.Tensor = pinned) -> None:
            _host_copy(driver, target, pinned, s)

        session.note(f"only the copy of {size} bytes", replay_us(driver, Graph(driver, stream, copy_alone), stream))


def _numba_launcher(session: Session, stream: int) -> None:
    from numba import cuda

    arrays = [cuda.device_array(32, dtype="float32") for _ in range(3)]
    jitted = cuda.jit(numba_kernels.three)
    external = cuda.external_stream(stream)
    jitted[1, 32, external](*arrays)
    session.driver.synchronize()

    def work(s: int) -> None:
        for _ in range(5):
            jitted[1, 32, external](*arrays)

    graph = Graph(session.driver, stream, work)
    session.note(
        "5 kernels captured from numba-cuda's launcher",
        replay_us(session.driver, graph, stream) | {"nodes": graph.kinds()},
    )


def run(session: Session) -> None:
    """Measures them."""
    x, y, out = (torch.zeros(32, device="cuda") for _ in range(3))
    launch = session.launch("small", 1, [x, y, out, 32])
    stream = session.driver.stream()
    launch(stream)
    session.driver.synchronize()
    with session.part("kernels"):
        _kernels(session, stream, launch)
    _early(session, stream)
    with session.part("copies"):
        _with_copies(session, stream, launch)
    with session.part("numba-cuda"):
        _numba_launcher(session, stream)
    with session.part("products"):
        _with_products(session, stream, launch)
