"""Two-dimensional convolution and its gradients on a GPU, as products whose operands are found where they lie.

The result and the input's gradient have an element for each channel and pixel: one chain of fused multiply-adds over
(channel, tap row, tap column), as on the CPU. The weight's gradient is summed over all pixels, in parts. Groups of few
channels have no tiles: there a thread does an element of the result, or a block one of the weight's gradient.
"""

from __future__ import annotations

from tracejit.kernels.cuda.conv_direct import direct_image, direct_weight, is_direct
from tracejit.kernels.cuda.conv_geometry import (
    Geometry,
    Pair,
    backward_reach,
    forward_reach,
    geometry,
    pixel_lines,
    tap_lines,
)
from tracejit.kernels.cuda.gemm import Matrix, block_arguments, block_lines, combine
from tracejit.kernels.cuda.launch import Arguments, GpuLaunch, indented, with_plain
from tracejit.kernels.cuda.product import (
    FLOATS,
    SCOPES,
    TOGETHER,
    Side,
    Tile,
    computed,
    number,
    parts_for,
    product_lines,
    tile_for,
    tiles_of,
)
from tracejit.kernels.launch import Operand, Ptr, Scratch


class _Patches(Side):
    """Columns are pixels, steps are (channel, tap row, tap column): what the taps of a window meet in the image."""

    def locate(self) -> list[str]:
        return [
            "b_p = left + b_i",
            *pixel_lines("b_p", "area", "out_width"),
            "b_y, b_x = b_p_y * stride_h - pad_h, b_p_x * stride_w - pad_w",
            "b_at = (b_p_image * groups + batch) * c_in * plane",
        ]

    def load(self, n: int, begin: str) -> list[str]:
        load = f"load_{self.short}_g(b, b_at + b_k_c * plane + at_y * width + at_x, 1, {SCOPES})"
        found = forward_reach("b_k", "b_y", "b_x", [f"{self.register(n, 0)} = {load}"])
        return _where(f"b_k = {self.k(n, begin)}", "b_p < n and b_k < stop", [*tap_lines("b_k"), *found])


class _Windows(Side):
    """Columns are pixels of the image, steps are (output channel, tap row, tap column): the windows that meet them."""

    def locate(self) -> list[str]:
        return [
            "b_p = left + b_i",
            *pixel_lines("b_p", "plane", "width"),
            "b_y, b_x = b_p_y + pad_h, b_p_x + pad_w",
            "b_at = (b_p_image * groups + batch) * c_out * area",
        ]

    def load(self, n: int, begin: str) -> list[str]:
        load = f"load_{self.short}_g(b, b_at + b_k_c * area + at_y * out_width + at_x, 1, {SCOPES})"
        found = backward_reach("b_k", "b_y", "b_x", [f"{self.register(n, 0)} = {load}"])
        return _where(f"b_k = {self.k(n, begin)}", "b_p < n and b_k < stop", [*tap_lines("b_k"), *found])


class _TurnedWeights(Side):
    """Rows are channels of the image, steps are (output channel, tap row, tap column)."""

    def locate(self) -> list[str]:
        return ["a_at = (batch * c_out * c_in + top + a_i) * taps"]

    def load(self, n: int, begin: str) -> list[str]:
        load = f"load_{self.short}_g(a, a_at + (a_c * c_in + {n * self.step}) * taps + a_k - a_c * taps, 0, {SCOPES})"
        inner = ["a_c = a_k * taps_by >> taps_to", f"{self.register(n, 0)} = {load}"]
        return _where(f"a_k = {self.k(n, begin)}", f"top + {self.row(n)} < m and a_k < stop", inner)


class _Cotangents(Side):
    """Rows are output channels, steps are pixels of the result."""

    def locate(self) -> list[str]:
        return ["a_at = (batch * c_out + top + a_i) * area"]

    def prepare(self, begin: str) -> list[str]:
        return [
            f"a_k = {self.k(0, begin)}",
            "a_image = a_k * area_by >> area_to",
            "a_from = a_at + a_image * (groups * c_out - 1) * area + a_k",
        ]

    def load(self, n: int, begin: str) -> list[str]:
        load = f"load_{self.short}_g(a, a_from + {n * self.step} * area, 0, {SCOPES})"
        return [f"if top + {self.row(n)} < m and a_k < stop:", f"    {self.register(n, 0)} = {load}"]


class _Pixels(Side):
    """Columns are (channel, tap row, tap column), steps are pixels of the result: what taps meet in the image."""

    def locate(self) -> list[str]:
        lines = []
        for n in range(self.items):
            column = f"b{n}_k"
            lines += [
                f"{column} = left + {self.row(n)}",
                *tap_lines(column),
                f"b{n}_y, b{n}_x = {column}_i * dilation_h - pad_h, {column}_j * dilation_w - pad_w",
                f"b{n}_at = (batch * c_in + {column}_c) * plane + b{n}_y * width + b{n}_x",
            ]
        return lines

    def prepare(self, begin: str) -> list[str]:
        return [
            f"b_p = {self.k(0, begin)}",
            *pixel_lines("b_p", "area", "out_width"),
            "b_y, b_x = b_p_y * stride_h, b_p_x * stride_w",
            "b_from = b_p_image * groups * c_in * plane + b_y * width + b_x",
        ]

    def load(self, n: int, begin: str) -> list[str]:
        load = f"load_{self.short}_g(b, b{n}_at + b_from, 1, {SCOPES})"
        inner = [
            f"at_y, at_x = b_y + b{n}_y, b_x + b{n}_x",
            "if at_y >= 0 and at_y < height and at_x >= 0 and at_x < width:",
            f"    {self.register(n, 0)} = {load}",
        ]
        return [f"if b{n}_k < n and b_p < stop:", *indented(inner)]


def _where(first: str, condition: str, inner: list[str]) -> list[str]:
    return [first, f"if {condition}:", *indented(inner)]


def _image_stores(tile: Tile, short: str, vector: int, area: str) -> list[str]:
    """Lines that store a thread's channels and pixels; a vector of pixels is of one image."""
    lines = []
    for j in range(0, tile.each, vector):
        inner = [
            f"image = pixel * {area}_by >> {area}_to",
            f"at = (image * groups + batch) * m * {area} + pixel - image * {area}",
        ]
        for i in range(tile.each):
            row = f"top + {tile.place('y', i)}"
            start = f"at + ({row}) * {area}"
            inner += [f"if {row} < m:", f"    to = {f'multiple({start}, {vector})' if vector > 1 else start}"]
            for e in range(vector):
                value = number(computed(short), f"c{i}_{j + e}")
                inner.append(f"    store_{short}_g(c, to + {e}, {value}, 2, {SCOPES})")
        lines += [f"pixel = left + {tile.place('x', j)}", "if pixel < n:", *indented(inner)]
    return lines


def _image_launch(g: Geometry, backward: bool, vectors: bool) -> GpuLaunch:
    """The launch of the result, or of the input's gradient."""
    m, channels = (g.c_in, g.c_out) if backward else (g.c_out, g.c_in)
    n, sides = (g.image_pixels, g.image) if backward else (g.result_pixels, g.result)
    k = channels * g.tap_count
    tile = tile_for(g.short, m, n, g.groups)
    arguments = Arguments()
    a: Side
    b: Side
    if backward:
        a, b = _TurnedWeights("a", g.short, tile, True), _Windows("b", g.short, tile, False)
        arguments.add("a", Ptr(1))
    else:
        matrix = Matrix(g.short, m * k, k, 1, (m, k))
        a, b = matrix.side("a", tile, vectors), _Patches("b", g.short, tile, False)
        a.arguments(arguments, matrix, Ptr(1))
    lanes = TOGETHER if g.short == "f32" else 2
    area = sides[0] * sides[1]
    vector = lanes if vectors and g.short != "f16" and area % lanes == 0 else 1
    arguments.add("b", Ptr(0))
    arguments.add("c", Ptr(2), vector * FLOATS[g.short] if vector > 1 else 1)
    g.arguments(arguments)
    arguments.add("n", n)
    blocks = block_arguments(arguments, tile, (m, n, k), g.groups, 1)
    body = [
        *block_lines(tile),
        *product_lines(tile, a, b, "first", "stop"),
        *_image_stores(tile, g.short, vector, "plane" if backward else "area"),
    ]
    stem = f"cuda_conv2d_{'input_grad_' if backward else ''}{g.short}_{tile.side}"
    return arguments.launch(stem, body, blocks, tile.threads)


def _image(g: Geometry, backward: bool) -> tuple[GpuLaunch, ...]:
    m, n = (g.c_in, g.image_pixels) if backward else (g.c_out, g.result_pixels)
    if m * n * g.groups == 0:
        return ()
    if is_direct(m):
        return (direct_image(g, backward),)
    return (with_plain(_image_launch(g, backward, True), lambda: _image_launch(g, backward, False)),)


def _weight(g: Geometry) -> tuple[GpuLaunch, ...]:
    m, n, k = g.c_out, g.c_in * g.tap_count, g.result_pixels
    count = g.groups * m * n
    if count == 0:
        return ()
    if is_direct(m) and is_direct(g.c_in):
        return (direct_weight(g),)
    tile = tile_for(g.short, m, n, g.groups)
    parts = parts_for(tiles_of(tile, m, n) * g.groups, k)
    scratch = Scratch(parts * count * FLOATS[computed(g.short)])
    arguments = Arguments()
    arguments.add_all(a=Ptr(0), b=Ptr(1), c=scratch if parts > 1 else Ptr(2))
    g.arguments(arguments)
    arguments.add("n", n)
    blocks = block_arguments(arguments, tile, (m, n, k), g.groups, parts)
    short = computed(g.short) if parts > 1 else g.short
    body = [
        *block_lines(tile),
        *product_lines(tile, _Cotangents("a", g.short, tile, True), _Pixels("b", g.short, tile, True), "first", "stop"),
    ]
    for i in range(tile.each):
        inner = [f"at = (group * m + top + {tile.place('y', i)}) * n + left"]
        for j in range(tile.each):
            column = tile.place("x", j)
            value = number(computed(g.short), f"c{i}_{j}")
            store = f"store_{short}_g(c, at + {column}, {value}, 2, {SCOPES})"
            inner += [f"if left + {column} < n:", f"    {store}"]
        body += [f"if top + {tile.place('y', i)} < m:", *indented(inner)]
    launch = arguments.launch(f"cuda_conv2d_weight_grad_{g.short}_{tile.side}", body, blocks, tile.threads)
    return (launch,) if parts == 1 else (launch, combine(g.short, count, parts, Ptr(2), scratch))


def launch_conv2d(
    x: Operand, w: Operand, y: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[GpuLaunch, ...]:
    """The launches of the convolution y of x with w; shapes as for the CPU's. Operands: x, w, y.

    DType: floating point; float16 is added up in float32.
    """
    return _image(geometry(x, w, y, stride, padding, dilation, groups), False)


def launch_conv2d_input_grad(
    ct: Operand, w: Operand, dx: Operand, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[GpuLaunch, ...]:
    """The launches of the gradient dx to a convolution's input. Operands: ct, w, dx."""
    return _image(geometry(dx, w, ct, stride, padding, dilation, groups), True)


def launch_conv2d_weight_grad(
    ct: Operand, x: Operand, dw: Operand, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[GpuLaunch, ...]:
    """The launches of the gradient dw to a convolution's weight. Operands: ct, x, dw.

    Source: a chain over (image, row, column) for each part of the pixels, the parts added up in order; where groups
        have few channels the threads of a block have every 256th pixel each and are put together as a tree.
    """
    return _weight(geometry(x, dw, ct, stride, padding, dilation, groups))
