"""Single operations beside PyTorch's, forward and with gradients: where a program of one operation loses.

Run: PYTHONPATH=src:. python -m benchmarks.operations [--json FILE] [--rounds N] [--seconds S] [--only TEXT] [--eager]
(needs torch). Each round runs all cases in a process of ours, compiled (or eager), then in one of PyTorch's, with the
same threads. A case's figure is the least of the rounds' medians. Prints the cases that are slower than PyTorch's,
worst first, and the geometric mean over all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracejit.runtime.team import get_num_threads
from tracejit.tools import table

Case = tuple[Callable[..., Any], tuple[Any, ...]]

WARM_UP, LEAST = 8, 5
"""Calls before the first one that is timed, and the fewest that are."""

UNIT = "sin cos tan tanh sigmoid exp erf abs neg floor round sign square expm1 atan asin acos sinh cosh exp2 trunc frac"
POSITIVE = "log log1p log2 log10 sqrt rsqrt reciprocal"
ACTIVATIONS = (
    "relu gelu silu elu selu celu leaky_relu softplus mish hardtanh hardswish hardsigmoid relu6 logsigmoid softsign "
    "tanhshrink softshrink glu"
)
FOLDS = "sum mean amax amin prod std var argmax cumsum cumprod norm logsumexp"
WITHOUT_GRADIENT = ("floor", "round", "sign", "trunc", "argmax", "randperm", "searchsorted")


def elementwise(T: Any) -> dict[str, Case]:
    """Functions of each element, and choices."""
    F = T.nn.functional
    unit, positive = T.rand(256, 1024) * 1.8 - 0.9, T.rand(256, 1024) + 0.1
    x, y = T.randn(256, 1024), T.randn(256, 1024)
    cases: dict[str, Case] = {name: (getattr(T, name), (unit,)) for name in UNIT.split()}
    cases |= {name: (getattr(T, name), (positive,)) for name in POSITIVE.split()}
    cases |= {name: (getattr(F, name), (x,)) for name in ACTIVATIONS.split()}
    return cases | {
        "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), (x,)),
        "clamp": (lambda x: x.clamp(-1, 1), (x,)),
        "pow 2.5": (lambda x: x**2.5, (positive,)),
        "pow 3": (lambda x: x**3, (x,)),
        "maximum": (T.maximum, (x, y)),
        "where": (lambda x, y: T.where(x > 0, x, y), (x, y)),
        "masked_fill": (lambda x, y: x.masked_fill(y > 0, 0.0), (x, y)),
        "tril": (lambda x: x.tril(), (x,)),
        "dropout": (lambda x: F.dropout(x, 0.5), (x,)),
        "randn": (lambda x: x + T.randn(256, 1024), (x,)),
    }


def folds(T: Any) -> dict[str, Case]:
    """Reductions, scans, order, norms and losses."""
    F = T.nn.functional
    x, y, image = T.randn(256, 1024), T.randn(256, 1024), T.randn(16, 64, 28, 28)
    labels = T.randint(0, 1024, (256,))
    cases: dict[str, Case] = {}
    for d in (0, 1):
        for name in FOLDS.split():
            cases[f"{name} {d}"] = (lambda x, name=name, d=d: getattr(x, name)(dim=d), (x,))
        cases[f"max {d}"] = (lambda x, d=d: x.max(d)[0], (x,))
        cases[f"softmax {d}"] = (lambda x, d=d: x.softmax(d), (x,))
        cases[f"log_softmax {d}"] = (lambda x, d=d: x.log_softmax(d), (x,))
        cases[f"sort {d}"] = (lambda x, d=d: x.sort(d)[0], (x,))
        cases[f"topk {d}"] = (lambda x, d=d: x.topk(10, d)[0], (x,))
        cases[f"median {d}"] = (lambda x, d=d: x.median(d)[0], (x,))
    for name in ("sum", "mean", "max", "min", "std", "norm"):
        cases[name] = (lambda x, name=name: getattr(x, name)(), (x,))
    return cases | {
        "layer_norm": (lambda x: F.layer_norm(x, (1024,)), (x,)),
        "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), (image,)),
        "batch_norm of columns": (lambda x: F.batch_norm(x, None, None, training=True), (x,)),
        "group_norm": (lambda x: F.group_norm(x, 8), (image,)),
        "instance_norm": (F.instance_norm, (image,)),
        "normalize": (F.normalize, (x,)),
        "cross_entropy": (lambda x: F.cross_entropy(x, labels), (x,)),
        "nll_loss": (lambda x: F.nll_loss(x, labels), (x,)),
        "mse_loss": (F.mse_loss, (x, y)),
        "l1_loss": (F.l1_loss, (x, y)),
        "smooth_l1_loss": (F.smooth_l1_loss, (x, y)),
        "binary_cross_entropy": (lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()), (x, y)),
        "cosine_similarity": (F.cosine_similarity, (x, y)),
    }


def short_rows(T: Any) -> dict[str, Case]:
    """Reductions of many rows of a few elements."""
    F = T.nn.functional
    cases: dict[str, Case] = {}
    for n in (2, 3, 7, 16, 24):
        x, labels = T.randn((1 << 20) // n, n), T.randint(0, n, ((1 << 20) // n,))
        cases[f"sum of rows of {n}"] = (lambda x: x.sum(1), (x,))
        cases[f"mean of rows of {n}"] = (lambda x: x.mean(1), (x,))
        cases[f"amax of rows of {n}"] = (lambda x: x.amax(1), (x,))
        cases[f"softmax of rows of {n}"] = (lambda x: x.softmax(1), (x,))
        cases[f"log_softmax of rows of {n}"] = (lambda x: x.log_softmax(1), (x,))
        cases[f"cross_entropy of rows of {n}"] = (lambda x, labels=labels: F.cross_entropy(x, labels), (x,))
        cases[f"layer_norm of rows of {n}"] = (lambda x, n=n: F.layer_norm(x, (n,)), (x,))
    return cases


def moves(T: Any) -> dict[str, Case]:
    """What puts elements elsewhere, gathers and scatters."""
    F = T.nn.functional
    x, y, image = T.randn(256, 1024), T.randn(256, 1024), T.randn(16, 64, 28, 28)
    rows, columns = T.randint(0, 256, (512,)), T.randint(0, 1024, (256, 64))
    bounds = T.randn(1000).sort()[0]
    return {
        "permute": (lambda x: x.permute(0, 2, 3, 1).contiguous(), (image,)),
        "transpose": (lambda x: x.T.contiguous(), (x,)),
        "flip 0": (lambda x: x.flip(0), (x,)),
        "flip 1": (lambda x: x.flip(1), (x,)),
        "roll": (lambda x: x.roll(3, 1), (x,)),
        "cat 0": (lambda x, y: T.cat([x, y], 0), (x, y)),
        "cat 1": (lambda x, y: T.cat([x, y], 1), (x, y)),
        "stack": (lambda x, y: T.stack([x, y], 2), (x, y)),
        "pad": (lambda x: F.pad(x, (1, 1, 1, 1)), (image,)),
        "pad by reflection": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), (image,)),
        "pad rows by reflection": (lambda x: F.pad(x, (8, 8), mode="reflect"), (x,)),
        "repeat": (lambda x: x.repeat(2, 2), (x,)),
        "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), (x,)),
        "mean of sliding windows": (lambda x: x.unfold(1, 8, 4).mean(2), (x,)),
        "unfold": (lambda x: F.unfold(x, 3, padding=1), (image,)),
        "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (image,)),
        "nearest x2": (lambda x: F.interpolate(x, scale_factor=2), (image,)),
        "bilinear x2": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (image,)),
        "randperm": (lambda x: T.randperm(10_000), (x,)),
        "searchsorted": (lambda x: T.searchsorted(bounds, x), (x,)),
        "gather": (lambda x: x.gather(1, columns), (x,)),
        "index_select": (lambda x: x.index_select(0, rows), (x,)),
        "x[:, index]": (lambda x: x[:, rows], (x,)),
        "embedding": (lambda x: F.embedding(rows, x), (x,)),
        "scatter_add": (lambda x: T.zeros(256, 1024).scatter_add(1, columns, x[:, :64]), (x,)),
        "index_add": (lambda x: T.zeros(256, 1024).index_add(0, rows[:256], x), (x,)),
    }


def products(T: Any) -> dict[str, Case]:
    """Products of vectors and matrices, attention and distances."""
    F, R = T.nn.functional, T.randn
    return {
        "matmul": (lambda a, b: a @ b, (R(256, 256), R(256, 256))),
        "matmul of stacks": (lambda a, b: a @ b, (R(64, 64, 64), R(64, 64, 64))),
        "matrix by vector": (lambda a, b: a @ b, (R(256, 1024), R(1024))),
        "vector by matrix": (lambda a, b: a @ b, (R(256), R(256, 1024))),
        "dot": (T.dot, (R(100_000), R(100_000))),
        "outer": (T.outer, (R(1024), R(1024))),
        "linear": (F.linear, (R(256, 1024), R(512, 1024), R(512))),
        "heads": (lambda a, b: a.transpose(1, 2) @ b.permute(0, 2, 3, 1), (R(4, 64, 4, 32), R(4, 64, 4, 32))),
        "einsum": (lambda a, b: T.einsum("bhid,bhjd->bhij", a, b), (R(4, 4, 64, 32), R(4, 4, 64, 32))),
        "bilinear": (F.bilinear, (R(64, 32), R(64, 32), R(16, 32, 32))),
        "cdist": (T.cdist, (R(256, 64), R(256, 64))),
        "attention": (F.scaled_dot_product_attention, tuple(R(4, 8, 128, 32) for _ in range(3))),
    }


def windows(T: Any) -> dict[str, Case]:
    """Convolutions and pooling."""
    F, R = T.nn.functional, T.randn
    x, row = R(16, 64, 28, 28), R(16, 64, 256)
    cases: dict[str, Case] = {}
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)):
        sizes = kernel, stride, padding
        cases[f"max_pool2d {sizes}"] = (lambda x, sizes=sizes: F.max_pool2d(x, *sizes), (x,))
        cases[f"avg_pool2d {sizes}"] = (lambda x, sizes=sizes: F.avg_pool2d(x, *sizes), (x,))

    def convolution(name: str, weight: Any, image: Any = x, **options: Any) -> None:
        cases[name] = (lambda x, w: F.conv2d(x, w, **options), (image, weight))

    convolution("conv 1x1", R(128, 64, 1, 1))
    convolution("conv 1x1, stride 2", R(128, 64, 1, 1), stride=2)
    convolution("conv 3x3", R(64, 64, 3, 3), padding=1)
    convolution("conv 3x3, stride 2", R(64, 64, 3, 3), padding=1, stride=2)
    convolution("conv 3x3, dilation 2", R(64, 64, 3, 3), padding=2, dilation=2)
    convolution("conv 3x3, 4 groups", R(64, 16, 3, 3), padding=1, groups=4)
    convolution("conv 3x3, each channel", R(64, 1, 3, 3), padding=1, groups=64)
    convolution("conv 5x5", R(32, 64, 5, 5), padding=2)
    convolution("conv 7x7, stride 2", R(64, 3, 7, 7), R(8, 3, 64, 64), padding=3, stride=2)
    return cases | {
        "conv 3x3, bias, relu": (lambda x, w, b: F.relu(F.conv2d(x, w, b, padding=1)), (x, R(64, 64, 3, 3), R(64))),
        "conv1d": (lambda x, w: F.conv1d(x, w, padding=2), (row, R(128, 64, 5))),
        "conv_transpose 2x2": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (x, R(64, 32, 2, 2))),
        "conv_transpose 4x4": (lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1), (x, R(64, 32, 4, 4))),
        "adaptive_avg_pool2d 1": (lambda x: F.adaptive_avg_pool2d(x, 1), (x,)),
        "adaptive_avg_pool2d 7": (lambda x: F.adaptive_avg_pool2d(x, 7), (x,)),
        "max_pool1d": (lambda x: F.max_pool1d(x, 2), (row,)),
        "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 1, 1), (row,)),
    }


def prepared(T: Any, case: Case, gradients: bool, compile: bool) -> Callable[[], Any]:
    """A case, ready to be timed."""
    function, operands = case

    def trained(*operands: Any) -> list[Any]:
        leaves = [x.detach().requires_grad_() for x in operands]
        function(*leaves).sum().backward()
        return [leaf.grad for leaf in leaves]

    def plain(*operands: Any) -> Any:
        return function(*operands)

    run: Callable[..., Any] = trained if gradients else plain
    if compile:
        run = T.compile(run)
    for _ in range(WARM_UP):
        run(*operands)
    return lambda: run(*operands)


def work(framework: str, seconds: float, only: str) -> dict[str, float]:
    """The median microseconds of all cases in this process."""
    T = importlib.import_module("torch" if framework == "torch" else "tracejit")
    T.set_num_threads(get_num_threads())
    T.manual_seed(0)
    found: dict[str, float] = {}
    for group in (elementwise, folds, short_rows, moves, products, windows):
        for name, case in group(T).items():
            for gradients in (False, True):
                label = f"{name}, gradients" if gradients else name
                if only not in label or (gradients and name.split()[0] in WITHOUT_GRADIENT):
                    continue
                run = prepared(T, case, gradients, framework == "compiled")
                spent: list[float] = []
                begin = time.perf_counter()
                while len(spent) < LEAST or time.perf_counter() - begin < seconds:
                    start = time.perf_counter()
                    run()
                    spent.append(time.perf_counter() - start)
                found[label] = statistics.median(spent) * 1e6
    return found


def main() -> None:
    """Measure all cases in processes that take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--only", default="", help="a part of the names of the cases to run")
    parser.add_argument("--eager", action="store_true", help="ours operation by operation")
    parser.add_argument("--worker", choices=("compiled", "eager", "torch"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker is not None:
        print(json.dumps(work(chosen.worker, chosen.seconds, chosen.only)))
        return
    ours = "eager" if chosen.eager else "compiled"
    rounds: dict[str, list[dict[str, float]]] = {ours: [], "torch": []}
    for _ in range(chosen.rounds):
        for framework, results in rounds.items():
            command = [sys.executable, "-m", "benchmarks.operations", "--worker", framework]
            command += ["--seconds", str(chosen.seconds), "--only", chosen.only]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    least = {
        framework: {name: min(result[name] for result in results) for name in results[0]}
        for framework, results in rounds.items()
    }
    ratios = sorted((least["torch"][name] / mine, name) for name, mine in least[ours].items())
    body = [
        [name, f"{least[ours][name]:.1f}", f"{least['torch'][name]:.1f}", f"{ratio:.2f}x"]
        for ratio, name in ratios
        if ratio < 1
    ]
    print(table.render(["operation", f"{ours} us", "torch us", "ratio"], body))
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios))
    print(f"{len(ratios)} cases, {len(body)} slower than PyTorch's; {mean:.2f}x in the geometric mean")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(least, indent=1) + "\n")


if __name__ == "__main__":
    main()
