"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence


def render(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table with the first `left` columns flush left and the others flush right.

    >>> print(render(["model", "ms"], [["mlp", "0.1"], ["cnn", "12.0"]]))
    model    ms
    -----  ----
    mlp     0.1
    cnn    12.0
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * width for width in widths]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in [header, rule, *rows])


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    >>> seconds(2.5), seconds(0.0123), seconds(0.000045)
    ('2.50 s', '12.3 ms', '45.0 us')
    """
    if value >= 1:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value * 1e3:.0f} ms"
    return f"{value * 1e6:.3g} us" if value >= 1e-4 else f"{value * 1e6:.1f} us"
