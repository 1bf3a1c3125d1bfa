"""Makes src/tracejit/kernels/vmath/coefficients.py: minimax polynomials by the Remez exchange in high precision.

Run: python benchmarks/minimax.py | ruff format - > src/tracejit/kernels/vmath/coefficients.py   (needs mpmath)
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
from mpmath import mp, mpf

mp.dps = 50
Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Fit:
    """A polynomial of `terms` coefficients for `function` on [low, high], the error weighted by `weight`.

    `split`: the lowest coefficient is written as two floats, high and low part.
    """

    name: str
    function: Function
    low: mpf
    high: mpf
    terms: dict[int, int]
    weight: Function = lambda u: mpf(1)
    split: bool = False


def remez(fit: Fit, terms: int, grid_size: int = 600) -> tuple[list[mpf], mpf]:
    """Coefficients (lowest first) and the largest weighted error."""
    middle, radius = (fit.low + fit.high) / 2, (fit.high - fit.low) / 2
    grid = [middle - radius * mpmath.cos(mp.pi * (i + mpf(1) / 2) / grid_size) for i in range(grid_size)]
    values = [fit.function(u) for u in grid]
    weights = [fit.weight(u) for u in grid]
    picks = [round(i * (grid_size - 1) / terms) for i in range(terms + 1)]
    coefficients: list[mpf] = []
    worst = mpf(0)
    for _ in range(40):
        matrix = mpmath.matrix(terms + 1, terms + 1)
        right = mpmath.matrix(terms + 1, 1)
        for row, pick in enumerate(picks):
            for column in range(terms):
                matrix[row, column] = grid[pick] ** column
            matrix[row, terms] = (-1) ** row / weights[pick]
            right[row] = values[pick]
        solution = mpmath.lu_solve(matrix, right)
        coefficients = [solution[i] for i in range(terms)]
        errors = [
            w * (mpmath.polyval(coefficients[::-1], u) - v) for u, v, w in zip(grid, values, weights, strict=True)
        ]
        worst = max(abs(e) for e in errors)
        level = abs(solution[terms])
        if worst < level * mpf("1.01"):
            break
        picks = alternation(errors, terms + 1)
    return coefficients, worst


def alternation(errors: list[mpf], count: int) -> list[int]:
    """Indices of `count` extrema of alternating sign, the largest ones."""
    runs: list[int] = []
    for index, error in enumerate(errors):
        if runs and (errors[runs[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[runs[-1]]):
                runs[-1] = index
        else:
            runs.append(index)
    while len(runs) > count:
        if len(runs) == count + 1:
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        else:
            weakest = min(range(len(runs)), key=lambda i: abs(errors[runs[i]]))
            if weakest in (0, len(runs) - 1):
                runs.pop(weakest)
            else:
                other = min((weakest - 1, weakest + 1), key=lambda i: abs(errors[runs[i]]))
                for i in sorted((weakest, other), reverse=True):
                    runs.pop(i)
    if len(runs) < count:
        raise ArithmeticError(f"only {len(runs)} alternations for {count} unknowns")
    return runs


def series(function: Function) -> Function:
    """`function` with its removable singularity at 0 avoided by a step aside and extra digits."""

    def safe(u: mpf) -> mpf:
        with mp.workdps(120):
            return function(u if abs(u) > mpf(10) ** -30 else mpf(10) ** -30)

    return safe


def odd_tail(function: Function) -> Function:
    """(f(x) - x) / x**3 as a function of z = x**2."""
    return series(lambda z: (function(mpmath.sqrt(z)) - mpmath.sqrt(z)) / mpmath.sqrt(z) ** 3)


def log_series(z: mpf) -> mpf:
    s = mpmath.sqrt(z)
    return (2 * mpmath.atanh(s) - 2 * s) / (s * z)


def log_series_tail(z: mpf) -> mpf:
    s = mpmath.sqrt(z)
    return (2 * mpmath.atanh(s) - 2 * s - mpf(2) / 3 * s**3) / s**5


def erfinv_at(w: mpf) -> mpf:
    """erfinv(x) / x where w = -log(1 - x**2)."""
    with mp.workdps(60):
        if w < mpf(10) ** -25:
            return mpmath.sqrt(mp.pi) / 2
        x = mpmath.sqrt(-mpmath.expm1(-w))
        y = mpmath.sqrt(w) * mpf("0.9") if w > 1 else x * mpmath.sqrt(mp.pi) / 2
        # 1 - x without cancellation; Newton on log(erfc) is well behaved far out
        rest = mpmath.exp(-w) / (1 + x)
        for _ in range(60):
            complement = mpmath.erfc(y)
            step = complement * mpmath.log(complement / rest) / (2 / mpmath.sqrt(mp.pi) * mpmath.exp(-y * y))
            y += step
            if abs(step) < mpf(10) ** -50 * abs(y):
                break
        return y / x


ln2 = mpmath.log(2)
root2 = mpmath.sqrt(2)
z_log = ((root2 - 1) / (root2 + 1)) ** 2
quarter_turn = (mp.pi / 4) ** 2 * mpf("1.0001")
z_atan = (root2 - 1) ** 2 * mpf("1.0001")


def log_tail(f: mpf) -> mpf:
    return (mpmath.log1p(f) - f + f * f / 2) / f**3


def minus_log_erfc(x: mpf) -> mpf:
    return -mpmath.log(mpmath.erfc(x))


def scaled_erfc_at(t: mpf) -> mpf:
    """(1 + 2 x) exp(x**2) erfc(x) where t = (x - 3.75) / (x + 3.75)."""
    x = mpf("3.75") * (1 + t) / (1 - t)
    return (1 + 2 * x) * mpmath.exp(x * x) * mpmath.erfc(x)


def share_of_expm1(r: mpf) -> mpf:
    """What an error of (expm1(r) - r) / r**2 is of expm1(r), not quite 0 at 0."""
    return max(abs(r), mpf("0.01"))


FITS = (
    Fit(
        "EXP",
        series(lambda r: (mpmath.expm1(r) - r) / r**2),
        -ln2 / 2,
        ln2 / 2,
        {32: 5, 64: 10},
        share_of_expm1,
    ),
    Fit("EXP2", series(lambda r: mpmath.expm1(r * ln2) / r), mpf(-1) / 2, mpf(1) / 2, {32: 6, 64: 11}),
    Fit("LOG", series(log_tail), 1 / root2 - 1, root2 - 1, {32: 9}),
    Fit("LOG_S", series(log_series), mpf(0), z_log, {64: 7}),
    Fit("LOG_S_TAIL", series(log_series_tail), mpf(0), z_log, {64: 7}),
    Fit("LOG_S_SHORT", series(log_series), mpf(0), z_log, {64: 5}),
    Fit("EXP_SHORT", series(lambda r: (mpmath.expm1(r) - r) / r**2), -ln2 / 2, ln2 / 2, {64: 6}),
    Fit("SINH", odd_tail(mpmath.sinh), mpf(0), mpf(1), {32: 4, 64: 7}),
    Fit("SIN", odd_tail(mpmath.sin), mpf(0), quarter_turn, {32: 4, 64: 6}),
    Fit("COS", series(lambda z: (mpmath.cos(mpmath.sqrt(z)) - 1 + z / 2) / z**2), mpf(0), quarter_turn, {32: 3, 64: 6}),
    Fit("ATAN", odd_tail(mpmath.atan), mpf(0), z_atan, {32: 5, 64: 11}),
    Fit("ASIN", odd_tail(mpmath.asin), mpf(0), mpf("0.2501"), {32: 5, 64: 12}),
    Fit(
        "ERF", series(lambda z: mpmath.erf(mpmath.sqrt(z)) / mpmath.sqrt(z) - 1), mpf(0), mpf("1.0001"), {32: 7, 64: 12}
    ),
    Fit("ERFC_LOG_32", lambda t: minus_log_erfc(t + 2), mpf(-1), mpf("2.0"), {32: 6}, lambda t: mpmath.erfc(t + 2)),
    Fit("ERFC_LOG_64", lambda t: minus_log_erfc(t + 2), mpf(-1), mpf("4.0"), {64: 17}, lambda t: mpmath.erfc(t + 2)),
    Fit("ERFC", scaled_erfc_at, mpf("-0.7648"), mpf("0.7638"), {64: 22}),
    Fit("ERFINV_LOW", lambda t: erfinv_at(t + mpf("1.5")), mpf("-1.5"), mpf("3.5"), {32: 10}, split=True),
    Fit(
        "ERFINV_HIGH",
        lambda t: erfinv_at((t + mpf("2.5")) ** 2),
        mpmath.sqrt(5) - mpf("2.5"),
        mpmath.sqrt(mpf("17.4")) - mpf("2.5"),
        {32: 10},
        split=True,
    ),
    Fit("ERFINV_A", lambda t: erfinv_at(t + mpf("3.125")), mpf("-3.125"), mpf("3.125"), {64: 24}, split=True),
    Fit(
        "ERFINV_B",
        lambda t: erfinv_at((t + mpf("3.25")) ** 2),
        mpf("2.5") - mpf("3.25"),
        mpf("0.75"),
        {64: 20},
        split=True,
    ),
    Fit("ERFINV_C", lambda t: erfinv_at((t + 5) ** 2), mpf("-1"), mpf("1.12"), {64: 19}, split=True),
)


def rounded(value: mpf, width: int) -> float:
    """The nearest float of the format."""
    if width == 64:
        return float(value)
    return float(struct.unpack("f", struct.pack("f", float(value)))[0])


def split(value: mpf, width: int, parts: int) -> list[float]:
    """`value` as an unevaluated sum of floats, the largest first."""
    out = []
    for _ in range(parts):
        out.append(rounded(value, width))
        value -= mpf(out[-1])
    return out


def main() -> None:
    print('"""Coefficients of the elementary functions, lowest power first, by bits of the float format.\n')
    print("Made by benchmarks/minimax.py (Remez exchange, 50 digits); the comments give log2 of a fit's largest error.")
    print('"""\n')
    print("from __future__ import annotations\n")
    for fit in FITS:
        print(f"{fit.name}: dict[int, tuple[float, ...]] = {{")
        for width, terms in fit.terms.items():
            coefficients, error = remez(fit, terms)
            print(f"    # {width}: {float(mpmath.log(error, 2)):.1f}")
            print(f"    {width}: (")
            if fit.split:
                for part in split(coefficients.pop(0), width, 2):
                    print(f"        {part!r},")
            for c in coefficients:
                print(f"        {rounded(c, width)!r},")
            print("    ),")
            print(f"{fit.name} {width}: 2**{float(mpmath.log(error, 2)):.1f}", file=sys.stderr)
        print("}")
    constants = {
        "LN2": (ln2, 2),
        "LOG2_E": (1 / ln2, 2),
        "LOG10_E": (1 / mpmath.log(10), 2),
        "LOG10_2": (mpmath.log10(2), 2),
        "TWO_THIRDS": (mpf(2) / 3, 2),
        "TWO_OVER_PI": (2 / mp.pi, 1),
        "HALF_PI": (mp.pi / 2, 4),
    }
    for name, (value, parts) in constants.items():
        print(f"{name}: dict[int, tuple[float, ...]] = {{")
        for width in (32, 64):
            print(f"    {width}: {tuple(split(value, width, parts))!r},")
        print("}")
    print("# k * pi / 4 for k = 0..4, high and low part")
    print("EIGHTHS: dict[int, tuple[tuple[float, ...], ...]] = {")
    for width in (32, 64):
        print(f"    {width}: {tuple(tuple(split(k * mp.pi / 4, width, 2)) for k in range(5))!r},")
    print("}")
    with mp.workdps(120):
        digits = int(mpmath.floor(2 / +mp.pi * mpf(2) ** 224))
    words = tuple((digits >> (224 - 32 * (i + 1))) & 0xFFFFFFFF for i in range(7))
    print("# bits of 2 / pi, 32 a word, the point after the first word")
    print(f"TWO_OVER_PI_WORDS: tuple[int, ...] = {(0, *words)!r}")


if __name__ == "__main__":
    main()
