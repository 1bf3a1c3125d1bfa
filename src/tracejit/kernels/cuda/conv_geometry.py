"""The sizes of a two-dimensional convolution as GPU kernels see them, and the arguments that hold them."""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.dtypes import BY_NAME
from tracejit.kernels.cuda.launch import MOST, Arguments
from tracejit.kernels.cuda.product import FLOATS
from tracejit.kernels.launch import Operand
from tracejit.kernels.template import require_contiguous

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Images (n, groups c_in, image) and filters (groups c_out, c_in, taps) give (n, groups c_out, result).

    Channels are those of one group.
    """

    short: str
    images: int
    groups: int
    c_in: int
    c_out: int
    image: Pair
    result: Pair
    taps: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def tap_count(self) -> int:
        """Taps of a filter."""
        return self.taps[0] * self.taps[1]

    @property
    def result_pixels(self) -> int:
        """Pixels of all results, of one channel."""
        return self.images * self.result[0] * self.result[1]

    @property
    def image_pixels(self) -> int:
        """Pixels of all images, of one channel."""
        return self.images * self.image[0] * self.image[1]

    def arguments(self, arguments: Arguments) -> None:
        """Sizes by name; `area` is of the result, `plane` of the image, `taps` of a filter."""
        sizes = {
            "c_in": self.c_in,
            "c_out": self.c_out,
            "groups": self.groups,
            "height": self.image[0],
            "width": self.image[1],
            "out_height": self.result[0],
            "out_width": self.result[1],
            "taps": self.tap_count,
            "taps_w": self.taps[1],
            "stride_h": self.stride[0],
            "stride_w": self.stride[1],
            "pad_h": self.padding[0],
            "pad_w": self.padding[1],
            "dilation_h": self.dilation[0],
            "dilation_w": self.dilation[1],
        }
        arguments.add_all(**sizes)
        for name in ("width", "out_width", "taps", "taps_w", "stride_h", "stride_w"):
            arguments.add_divisor(name, max(sizes[name], 1))
        for name, sides in (("area", self.result), ("plane", self.image)):
            arguments.add(name, sides[0] * sides[1])
            arguments.add_divisor(name, max(sides[0] * sides[1], 1))


def geometry(x: Operand, w: Operand, y: Operand, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Geometry:
    """The sizes of the convolution y of x with w.

    Raises: ValueError for operands that are not contiguous, NotImplementedError for other dtypes and huge sizes.
    """
    require_contiguous("conv2d", x, w, y)
    short = BY_NAME[x.dtype].short
    if short not in FLOATS:
        raise NotImplementedError(f"conv2d: there is no GPU kernel for {x.dtype}")
    images, _, *image = map(int, x.shape)
    c_out, c_in, *taps = map(int, w.shape)
    result = int(y.shape[2]), int(y.shape[3])
    sides = (image[0], image[1]), result, (taps[0], taps[1])
    found = Geometry(short, images, groups, c_in, c_out // groups, *sides, stride, padding, dilation)
    steps = c_in * found.tap_count, found.c_out * found.tap_count
    if max(found.result_pixels, found.image_pixels, *steps) >= MOST:
        raise NotImplementedError("conv2d: there are too many elements for a GPU kernel")
    return found


def tap_lines(name: str) -> list[str]:
    """Lines that take a step `name` of (channel, tap row, tap column) apart, into `name_c`, `name_i` and `name_j`."""
    from_taps = f"({name} - {name}_c * taps)"
    return [
        f"{name}_c = {name} * taps_by >> taps_to",
        f"{name}_i = {from_taps} * taps_w_by >> taps_w_to",
        f"{name}_j = {from_taps} - {name}_i * taps_w",
    ]


def pixel_lines(name: str, area: str, width: str) -> list[str]:
    """Lines that take a pixel `name` of all images apart, into `name_image`, `name_y` and `name_x`."""
    return [
        f"{name}_image = {name} * {area}_by >> {area}_to",
        f"{name}_rest = {name} - {name}_image * {area}",
        f"{name}_y = {name}_rest * {width}_by >> {width}_to",
        f"{name}_x = {name}_rest - {name}_y * {width}",
    ]


def forward_reach(tap: str, y: str, x: str, found: list[str]) -> list[str]:
    """Lines that go on where a tap of a window that begins at (y, x) meets a pixel (`at_y`, `at_x`) of the image."""
    return [
        f"at_y, at_x = {y} + {tap}_i * dilation_h, {x} + {tap}_j * dilation_w",
        "if at_y >= 0 and at_y < height and at_x >= 0 and at_x < width:",
        *("    " + line for line in found),
    ]


def backward_reach(tap: str, y: str, x: str, found: list[str]) -> list[str]:
    """Lines that go on where a tap of some window (`at_y`, `at_x`) meets the pixel (y, x), padding counted."""
    return [
        f"of_y, of_x = {y} - {tap}_i * dilation_h, {x} - {tap}_j * dilation_w",
        "if of_y >= 0 and of_x >= 0:",
        "    at_y, at_x = of_y * stride_h_by >> stride_h_to, of_x * stride_w_by >> stride_w_to",
        "    if at_y * stride_h == of_y and at_x * stride_w == of_x and at_y < out_height and at_x < out_width:",
        *("        " + line for line in found),
    ]
