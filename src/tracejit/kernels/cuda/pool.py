"""Maximum and average over windows on a GPU, and their gradients: a thread an element of the result.

What a thread does is what the CPU does for that element, in the same order: the same bits.
"""

from __future__ import annotations

from tracejit.kernels.cuda.launch import MOST, Arguments, GpuLaunch, indented
from tracejit.kernels.cuda.product import FLOATS, computed, number
from tracejit.kernels.launch import Operand, Ptr
from tracejit.kernels.template import product, require_contiguous, short_name

Pair = tuple[int, int]
_THREADS = 128


def _sizes(arguments: Arguments, x: Operand, out: Operand, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """The sizes of images x, of windows, and of their results."""
    for name, pair in (
        ("height width", x.shape[-2:]),
        ("out_height out_width", out.shape[-2:]),
        ("kernel_h kernel_w", kernel),
        ("stride_h stride_w", stride),
        ("pad_h pad_w", padding),
    ):
        arguments.add_all(**dict(zip(name.split(), map(int, pair), strict=True)))


def _place_lines(width: str, height: str) -> list[str]:
    """Lines that find a thread's element: `plane`, `row` and `column`."""
    return [
        f"u = lo * {_THREADS} + thread()",
        "if u >= hi:",
        "    return 0",
        "line = u * across_by >> across_to",
        f"column = u - line * {width}",
        "plane = line * down_by >> down_to",
        f"row = line - plane * {height}",
    ]


def _finish(arguments: Arguments, stem: str, body: list[str], over: Operand) -> tuple[GpuLaunch, ...]:
    count = product(map(int, over.shape))
    if count >= MOST:
        raise NotImplementedError(f"{stem}: there are too many elements for a GPU kernel")
    if count == 0:
        return ()
    return (arguments.launch(stem, body, -(-count // _THREADS), _THREADS, count),)


def _checked(what: str, *operands: Operand) -> str:
    require_contiguous(what, *operands)
    short = short_name(operands[0])
    if short not in FLOATS:
        raise NotImplementedError(f"{what}: there is no GPU kernel for {operands[0].dtype}")
    return short


def launch_max_pool2d(
    x: Operand,
    values: Operand,
    indices: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[GpuLaunch, ...]:
    """The launch for the maximum of each window and its place. Operands: x, values, indices.

    Edge: as on the CPU: of equal elements the first; of several NaN the last.
    """
    short = _checked("max_pool2d", x, values, indices)
    wide = computed(short)
    arguments = Arguments()
    arguments.add_all(x=Ptr(0), values=Ptr(1), places=Ptr(2))
    _sizes(arguments, x, values, kernel, stride, padding)
    arguments.add_all(dilation_h=dilation[0], dilation_w=dilation[1])
    _divisors(arguments, values)
    body = [
        *_place_lines("out_width", "out_height"),
        "top, left = row * stride_h - pad_h, column * stride_w - pad_w",
        "base = plane * height * width",
        # The first tap inside is where the maximum is until a greater one is found.
        "inside_h, inside_w = top, left",
        "while inside_h < 0:",
        "    inside_h += dilation_h",
        "while inside_w < 0:",
        "    inside_w += dilation_w",
        "place = min(inside_h, height - 1) * width + min(inside_w, width - 1)",
        f"best = -{number(wide, '1')} / {number(wide, '0')}",
        "for i in range(kernel_h):",
        "    y = top + i * dilation_h",
        "    if y >= 0 and y < height:",
        "        for j in range(kernel_w):",
        "            z = left + j * dilation_w",
        "            if z >= 0 and z < width:",
        f"                v = load_{short}_g(x, base + y * width + z, 0, 3)",
        "                if v > best or v != v:",
        "                    best = v",
        "                    place = y * width + z",
        f"store_{short}_g(values, u, best, 1, 3)",
        "store_i64_g(places, u, place, 2, 3)",
    ]
    return _finish(arguments, f"cuda_max_pool2d_{short}", body, values)


def launch_max_pool2d_grad(
    ct: Operand,
    indices: Operand,
    dx: Operand,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[GpuLaunch, ...]:
    """The launch for the gradient of max_pool2d in its input. Operands: ct, indices, dx."""
    short = _checked("max_pool2d_grad", ct, indices, dx)
    wide = computed(short)
    reach = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
    arguments = Arguments()
    arguments.add_all(x=Ptr(0), places=Ptr(1), out=Ptr(2))
    _sizes(arguments, dx, ct, reach, stride, padding)
    _divisors(arguments, dx)
    arguments.add_divisor("stride_h", stride[0])
    arguments.add_divisor("stride_w", stride[1])
    more = f"total + load_{short}_g(x, e, 0, 3)"
    windows = [
        "e = (plane * out_height + i) * out_width + j",
        "if load_i64_g(places, e, 1, 3) == row * width + column:",
        f"    total = {more if short == wide else f'round_{short}({more})'}",
    ]
    body = [
        *_place_lines("width", "height"),
        f"total = {number(wide, '0')}",
        *_around_lines(windows),
        f"store_{short}_g(out, u, total, 2, 3)",
    ]
    return _finish(arguments, f"cuda_max_pool2d_grad_{short}", body, dx)


def _around_lines(lines: list[str]) -> list[str]:
    """Lines done for the windows (i, j) that a thread's element is in: none begins behind it, none ends before it."""
    return [
        "above = max(row + pad_h - kernel_h + stride_h, 0) * stride_h_by >> stride_h_to",
        "before = max(column + pad_w - kernel_w + stride_w, 0) * stride_w_by >> stride_w_to",
        "below = min(((row + pad_h) * stride_h_by >> stride_h_to) + 1, out_height)",
        "behind = min(((column + pad_w) * stride_w_by >> stride_w_to) + 1, out_width)",
        "for i in range(above, below):",
        "    for j in range(before, behind):",
        *indented(lines, 2),
    ]


def _divisors(arguments: Arguments, over: Operand) -> None:
    arguments.add_divisor("across", max(int(over.shape[-1]), 1))
    arguments.add_divisor("down", max(int(over.shape[-2]), 1))


def _count_lines(row: str, column: str, wide: str) -> list[str]:
    """Lines that give `count`, what the sum of the window (row, column) is divided by."""
    return [
        f"top, left = {row} * stride_h - pad_h, {column} * stride_w - pad_w",
        "count = divisor",
        "if divisor == 0:",
        "    rows = min(top + kernel_h, height + margin_h) - max(top, -margin_h)",
        "    count = rows * (min(left + kernel_w, width + margin_w) - max(left, -margin_w))",
        f"share = {number(wide, 'count')}",
    ]


def _averaging(
    x: Operand, out: Operand, kernel: Pair, stride: Pair, padding: Pair, counted: bool, divisor: int
) -> Arguments:
    arguments = Arguments()
    arguments.add_all(x=Ptr(0), out=Ptr(1))
    _sizes(arguments, x, out, kernel, stride, padding)
    margin = padding if counted else (0, 0)
    arguments.add_all(margin_h=margin[0], margin_w=margin[1], divisor=divisor)
    return arguments


def launch_avg_pool2d(
    x: Operand,
    out: Operand,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
) -> tuple[GpuLaunch, ...]:
    """The launch for the mean of each window. Operands: x, out."""
    short = _checked("avg_pool2d", x, out)
    wide = computed(short)
    arguments = _averaging(x, out, kernel, stride, padding, count_include_pad, divisor)
    _divisors(arguments, out)
    body = [
        *_place_lines("out_width", "out_height"),
        *_count_lines("row", "column", wide),
        f"total = {number(wide, '0')}",
        "for y in range(max(top, 0), min(top + kernel_h, height)):",
        "    for z in range(max(left, 0), min(left + kernel_w, width)):",
        f"        total = total + load_{short}_g(x, (plane * height + y) * width + z, 0, 2)",
        f"store_{short}_g(out, u, total / share, 1, 2)",
    ]
    return _finish(arguments, f"cuda_avg_pool2d_{short}", body, out)


def launch_avg_pool2d_grad(
    ct: Operand,
    dx: Operand,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int,
) -> tuple[GpuLaunch, ...]:
    """The launch for the gradient of avg_pool2d in its input. Operands: ct, dx."""
    short = _checked("avg_pool2d_grad", ct, dx)
    wide = computed(short)
    arguments = _averaging(dx, ct, kernel, stride, padding, count_include_pad, divisor)
    _divisors(arguments, dx)
    arguments.add_divisor("stride_h", stride[0])
    arguments.add_divisor("stride_w", stride[1])
    windows = [
        *_count_lines("i", "j", wide),
        f"total = total + load_{short}_g(x, (plane * out_height + i) * out_width + j, 0, 2) / share",
    ]
    body = [
        *_place_lines("width", "height"),
        f"total = {number(wide, '0')}",
        *_around_lines(windows),
        f"store_{short}_g(out, u, total, 1, 2)",
    ]
    return _finish(arguments, f"cuda_avg_pool2d_grad_{short}", body, dx)
