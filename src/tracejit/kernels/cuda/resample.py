"""Resampling along one axis and its adjoint on a GPU: a thread an element of the result.

What a thread does is what the CPU does for that element, in the same order: the same bits.
"""

from __future__ import annotations

import re

from tracejit.kernels.cuda.launch import MOST, Arguments, GpuLaunch, indented, quotient
from tracejit.kernels.cuda.product import number
from tracejit.kernels.launch import Operand, Ptr
from tracejit.kernels.resample import step_of
from tracejit.kernels.template import lanes, require_contiguous, short_name

_THREADS = 128
_NEAR = "({1.25} * {t} - {2.25}) * {t} * {t} + {1.0}"
_FAR = "(({-0.75} * ({t} + {1.0}) - {-3.75}) * ({t} + {1.0}) + {-6.0}) * ({t} + {1.0}) - {-3.0}"
"""Keys' cubic convolution with a slope of -0.75, at a distance of t below 1 and of 1 + t."""


def _cubic(formula: str, t: str, short: str) -> str:
    """The text of a formula, its numbers elements of a type."""
    return re.sub(r"{([-.0-9]+)}", lambda found: number(short, found[1]), formula.replace("{t}", t))


def _term_lines(short: str, taps: int) -> list[str]:
    """Lines that find the terms of element s: `first`, the place of the first one, and their weights."""
    kind = "f32" if taps == 1 else short
    lines = [f"at = ({number(kind, 's')} + before) * ratio - behind"]
    if taps == 2:
        lines.append(f"at = select(at < {number(kind, '0')}, {number(kind, '0')}, at)")
    lines += [f"whole = floor_{kind}(at)", f"first = int64(whole) - {int(taps == 4)}"]
    if taps == 1:
        return [*lines, f"weight_0 = {number(short, '1')}"]
    lines += ["part = at - whole", f"rest = {number(short, '1')} - part"]
    if taps == 2:
        return [*lines, "weight_0 = rest", "weight_1 = part"]
    weights = (_FAR, "part"), (_NEAR, "part"), (_NEAR, "rest"), (_FAR, "rest")
    return [*lines, *(f"weight_{k} = {_cubic(*weight, short)}" for k, weight in enumerate(weights))]


def _launch(
    what: str, x: Operand, out: Operand, dim: int, ratio: float, taps: int, places: str, backward: bool
) -> tuple[GpuLaunch, ...]:
    require_contiguous(what, x, out)
    short = short_name(x)
    if short not in ("f32", "f64"):
        raise NotImplementedError(f"{what}: there is no GPU kernel for {x.dtype}")
    outer, sources, inner = (int(size) for size in lanes(what, x.shape, dim))
    results = int(lanes(what, out.shape, dim)[1])
    count = outer * results * inner
    if count >= MOST:
        raise NotImplementedError(f"{what}: there are too many elements for a GPU kernel")
    if 0 in (count, sources):
        return ()
    old, new = (results, sources) if backward else (sources, results)
    arguments = Arguments()
    arguments.add_all(x=Ptr(0), out=Ptr(1), old=old, new=new, inner=inner)
    for name, value in zip(("ratio", "before", "behind"), step_of(old, new, ratio, places), strict=True):
        arguments.add_number(name, value, "f32" if taps == 1 else short)
    arguments.add_divisor("inner", inner)
    arguments.add_divisor("results", results)
    body = [
        f"u = lo * {_THREADS} + thread()",
        "if u >= hi:",
        "    return 0",
        f"line = {quotient('u', 'inner')}",
        "c = u - line * inner",
        f"plane = {quotient('line', 'results')}",
        # Nothing else keeps the sign of a first term that is 0.
        f"total = -{number(short, '0.0')}",
    ]
    terms = _term_lines(short, taps)
    if backward:
        body += _adjoint_lines(short, taps, terms)
    else:
        body += ["s = line - plane * new", *terms]
        for k in range(taps):
            place = f"(plane * old + min(max(first + {k}, 0), old - 1)) * inner + c"
            body.append(f"total = total + weight_{k} * load_{short}_g(x, {place}, 0, 2)")
    body.append(f"store_{short}_g(out, u, total, 1, 2)")
    stem = f"cuda_{what}_{short}"
    return (arguments.launch(stem, body, -(-count // _THREADS), _THREADS, count),)


def _adjoint_lines(short: str, taps: int, terms: list[str]) -> list[str]:
    """Lines that add up what elements s took from the element at i; the bounds are a few too wide."""
    kind = "f32" if taps == 1 else short
    place = number(kind, "i")
    some = [f"added = weight_{{k}} * load_{short}_g(x, (plane * new + s) * inner + c, 0, 2)", "total = total + added"]
    inside = [*terms]
    for k in range(taps):
        inside.append(f"if min(max(first + {k}, 0), old - 1) == i:")
        inside += [f"    {line.format(k=k)}" for line in some]
        inside.append("    found = 1")
    return [
        "i = line - plane * old",
        "found, low, high = 0, 0, new",
        f"if ratio > {number(kind, '0')}:",
        "    if i > 0:",
        f"        low = max(low, int64(({place} - {number(kind, str(taps))} + behind) / ratio - before) - 2)",
        "    if i < old - 1:",
        f"        high = min(high, int64(({place} + {number(kind, str(taps + 1))} + behind) / ratio - before) + 3)",
        "for s in range(low, high):",
        *indented(inside, 1),
        "if found == 0:",
        f"    total = {number(short, '0')}",
    ]


def launch_resample(
    x: Operand, out: Operand, dim: int, size: int, ratio: float, taps: int, places: str
) -> tuple[GpuLaunch, ...]:
    """The launch of x resampled along `dim`. Operands: x, out."""
    return _launch("resample", x, out, dim, ratio, taps, places, False)


def launch_resample_grad(
    ct: Operand, dx: Operand, dim: int, size: int, ratio: float, taps: int, places: str
) -> tuple[GpuLaunch, ...]:
    """The launch of the adjoint of `launch_resample`. Operands: ct, dx."""
    return _launch("resample_grad", ct, dx, dim, ratio, taps, places, True)
