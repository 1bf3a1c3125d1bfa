"""Convolutions of few channels a group, such as depthwise ones, without tiles: loops over channels and taps."""

from __future__ import annotations

from tracejit.kernels.cuda.conv_geometry import Geometry, backward_reach, forward_reach, pixel_lines, tap_lines
from tracejit.kernels.cuda.launch import Arguments, GpuLaunch, indented
from tracejit.kernels.cuda.product import computed, number
from tracejit.kernels.cuda.threads import WARP
from tracejit.kernels.launch import Ptr

_FEWEST = 4
"""Channels of a group from which on tiles are worth it."""
_THREADS = 128
_FOLDING = 256
"""Threads of a block that sums up one element of a weight's gradient."""


def is_direct(channels: int) -> bool:
    """Whether there are too few channels in a group for tiles."""
    return channels < _FEWEST


def direct_image(g: Geometry, backward: bool) -> GpuLaunch:
    """The launch of a convolution's result, or of its input's gradient: a thread an element, along memory."""
    count = g.groups * (g.c_in * g.image_pixels if backward else g.c_out * g.result_pixels)
    wide = computed(g.short)
    arguments = Arguments()
    arguments.add_all(x=Ptr(0), w=Ptr(1), y=Ptr(2))
    g.arguments(arguments)
    mine, others, own = ("c_in", "c_out", "plane") if backward else ("c_out", "c_in", "area")
    arguments.add("channels", g.groups * (g.c_in if backward else g.c_out))
    arguments.add_divisor("channels", max(g.groups * (g.c_in if backward else g.c_out), 1))
    arguments.add_divisor("mine", max(g.c_in if backward else g.c_out, 1))
    width, source, source_width = ("width", "area", "out_width") if backward else ("out_width", "plane", "width")
    body = [
        f"u = lo * {_THREADS} + thread()",
        "if u >= hi:",
        "    return 0",
        f"row = u * {own}_by >> {own}_to",
        f"u_y = (u - row * {own}) * {width}_by >> {width}_to",
        f"u_x = u - row * {own} - u_y * {width}",
        "image = row * channels_by >> channels_to",
        "channel = row - image * channels",
        "group = channel * mine_by >> mine_to",
        f"inner = channel - group * {mine}",
        f"from_image = (image * groups + group) * {others} * {source}",
        f"total = {number(wide, '0')}",
    ]
    if backward:
        body.append("y_of, x_of = u_y + pad_h, u_x + pad_w")
        weight = "((group * c_out + k_c) * c_in + inner) * taps + k - k_c * taps"
    else:
        body.append("y_of, x_of = u_y * stride_h - pad_h, u_x * stride_w - pad_w")
        weight = "channel * c_in * taps + k"
    value = f"load_{g.short}_g(x, from_image + k_c * {source} + at_y * {source_width} + at_x, 0, 3)"
    found = [f"total = fma_{wide}(load_{g.short}_g(w, {weight}, 1, 3), {value}, total)"]
    reach = (backward_reach if backward else forward_reach)("k", "y_of", "x_of", found)
    body += [f"for k in range({others} * taps):", *indented([*tap_lines("k"), *reach])]
    body.append(f"store_{g.short}_g(y, u, total, 2, 3)")
    stem = f"cuda_conv2d_{'input_grad_' if backward else ''}direct_{g.short}"
    return arguments.launch(stem, body, -(-count // _THREADS), _THREADS, count)


def direct_weight(g: Geometry) -> GpuLaunch:
    """The launch of a weight's gradient: a block an element, whose threads have every 256th pixel each."""
    wide = computed(g.short)
    count = g.groups * g.c_out * g.c_in * g.tap_count
    arguments = Arguments()
    arguments.add_all(ct=Ptr(0), x=Ptr(1), dw=Ptr(2), pixels=g.result_pixels)
    g.arguments(arguments)
    warps = _FOLDING // WARP
    arguments.add_divisor("mine", max(g.c_out, 1))
    arguments.add_divisor("filter", max(g.c_in * g.tap_count, 1))
    body = [
        "if lo >= hi:",
        "    return 0",
        f"parts = shared(0, {warps})",
        "o = lo * filter_by >> filter_to",
        "k = lo - o * c_in * taps",
        *tap_lines("k"),
        "group = o * mine_by >> mine_to",
        f"total = {number(wide, '0')}",
        "q = thread()",
        "while q < pixels:",
        *indented(
            [
                *pixel_lines("q", "area", "out_width"),
                *forward_reach(
                    "k",
                    "q_y * stride_h - pad_h",
                    "q_x * stride_w - pad_w",
                    [
                        f"v = load_{g.short}_g(ct, (q_image * groups * c_out + o) * area + q_rest, 0, 3)",
                        "of_image = ((q_image * groups + group) * c_in + k_c) * plane",
                        f"total = fma_{wide}(v, load_{g.short}_g(x, of_image + at_y * width + at_x, 1, 3), total)",
                    ],
                ),
                f"q += {_FOLDING}",
            ]
        ),
        *(f"total = total + down_{wide}(total, {WARP >> k})" for k in range(1, WARP.bit_length())),
        f"if thread() % {WARP} == 0:",
        f"    store_{wide}_b(parts, thread() // {WARP}, total, 0, 1)",
        "barrier()",
        "if thread() == 0:",
        *(f"    part{k} = load_{wide}_b(parts, {k}, 0, 1)" for k in range(warps)),
        f"    store_{g.short}_g(dw, lo, {_tree([f'part{k}' for k in range(warps)])}, 2, 3)",
    ]
    return arguments.launch(f"cuda_conv2d_weight_grad_direct_{g.short}", body, count, _FOLDING)


def _tree(names: list[str]) -> str:
    while len(names) > 1:
        names = [f"({first} + {second})" for first, second in zip(names[::2], names[1::2], strict=True)]
    return names[0]
