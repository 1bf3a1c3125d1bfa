"""Versions, the device, and how fast memory and cuBLAS are."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

from benchmarks.gpu.blas import WORKSPACE_BYTES, Blas
from benchmarks.gpu.session import Session, device_us, error_of, here, host_us

PACKAGES = (
    "numpy", "numba", "llvmlite", "numba-cuda", "cupy-cuda13x", "cuda-bindings", "cuda-core", "cuda-pathfinder",
    "torch", "triton", "jax", "nvidia-cublas", "nvidia-nvjitlink", "nvidia-cuda-nvrtc",
)  # fmt: skip
SHAPES = ((8192, 8192, 8192), (1024, 1024, 1024), (128, 784, 512), (64, 128, 128), (768, 128, 512))
ELEMENTS = 1 << 26


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Names and versions of what the figures were measured with."""
    found: dict[str, Any] = {"python": platform.python_version()}
    smi = shutil.which("nvidia-smi")
    if smi is not None:
        query = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found["nvidia-smi"] = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=False
        ).stdout.strip()
    found.update({package: _version(package) for package in PACKAGES})
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = file.read().splitlines()
    found["cpu"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    flags = next(line.split(":")[1].split() for line in lines if line.startswith("flags"))
    found["cpu flags"] = [f for f in flags if f.startswith(("avx512", "amx", "avx2", "fma"))]
    found["cpus"] = os.cpu_count()
    return found


def _copy(session: Session) -> None:
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    us = device_us(lambda: target.copy_(source), repeats=5)
    session.note("copy by the driver", {"us": us, "GB/s": 2 * source.nbytes / us * 1e-3})
    n = source.numel() // 4
    work = session.launch("copy_f32_vector_1_256", -(-n // 256), [source, source, target, n])
    target.fill_(float("nan"))
    us = device_us(lambda: work(here()), repeats=5)
    same = bool(torch.equal(source, target))
    session.note("copy by a kernel", {"us": us, "GB/s": 2 * source.nbytes / us * 1e-3, "equal": same})


def _triad(session: Session) -> None:
    x, y, out = (torch.randn(ELEMENTS, device="cuda") for _ in range(3))
    # The same two roundings as the kernel's; PyTorch's own x + 3 y may fuse them.
    wanted = torch.add(x, torch.mul(y, 3.0))
    for shape in ("scalar_1_256", "vector_1_256", "vector_2_256", "vector_4_256", "vector_1_128", "vector_1_512"):
        kind, vectors, threads = shape.split("_")
        n = ELEMENTS // (4 if kind == "vector" else 1)
        work = session.launch(f"triad_f32_{shape}", -(-n // (int(vectors) * int(threads))), [x, y, out, n])
        out.fill_(float("nan"))
        us = device_us(lambda work=work: work(here()), repeats=5)  # type: ignore[misc]
        wrong = int((out != wanted).sum())
        session.note(f"triad {shape}", {"us": us, "GB/s": 3 * x.nbytes / us * 1e-3, "wrong elements": wrong})


def _products(session: Session) -> None:
    blas = Blas()
    session.note("cublas version", blas.version())
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    for m, k, n in SHAPES:
        large = m * k * n > 1 << 36
        for kind in ("f32", "tf32", "bf16"):
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            a, b = (torch.randn(shape, device="cuda").to(dtype) for shape in ((m, k), (k, n)))
            out = torch.empty((m, n), device="cuda", dtype=dtype)
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            reference = a[:64].double() @ b.double()

            def ours(
                m: int = m, k: int = k, n: int = n, a: Any = a, b: Any = b, out: Any = out, kind: str = kind
            ) -> None:
                blas.use(here(), workspace.data_ptr())
                blas.product(m, k, n, a.data_ptr(), b.data_ptr(), out.data_ptr(), kind)

            def peer(a: Any = a, b: Any = b, out: Any = out) -> None:
                torch.mm(a, b, out=out)

            for label, work in (("cublas by ctypes", ours), ("torch", peer)):
                out.fill_(float("nan"))
                us = device_us(work, repeats=2 if large else 20, rounds=5)
                session.note(
                    f"product {m}x{k}x{n} {kind}, {label}",
                    {"us": us, "tflops": 2e-6 * m * k * n / us, "error": error_of(out[:64], reference)},
                )
            if not large and kind == "f32":
                blas.use(here(), workspace.data_ptr())
                arguments = (m, k, n, a.data_ptr(), b.data_ptr(), out.data_ptr(), kind)
                alone = host_us(lambda g=arguments: blas.product(*g), 100, 9)  # type: ignore[misc]
                session.note(
                    f"product {m}x{k}x{n}, host",
                    {"ctypes us": alone, "with stream and workspace us": host_us(ours, 100, 9)}
                    | {"torch us": host_us(peer, 100, 9)},
                )


def run(session: Session) -> None:
    """Measures them."""
    session.note("machine", machine())
    properties = torch.cuda.get_device_properties(0)
    session.note(
        "device",
        {
            name: getattr(properties, name)
            for name in ("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size",
                         "shared_memory_per_block_optin", "shared_memory_per_multiprocessor",
                         "regs_per_multiprocessor", "max_threads_per_multi_processor")
            if hasattr(properties, name)
        },
    )  # fmt: skip
    session.note("driver's cuda", session.driver.version())
    with session.part("copy"):
        _copy(session)
    with session.part("triad"):
        _triad(session)
    with session.part("products"):
        _products(session)
