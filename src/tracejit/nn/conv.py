"""Convolutions of sequences and images, and their transposes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tracejit.nn import functional as F
from tracejit.nn import init
from tracejit.nn.module import Module
from tracejit.nn.parameter import Parameter
from tracejit.nn.sizes import sizes
from tracejit.tensor import Tensor, empty

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]


class _Conv(Module):
    """What all convolutions share: options, parameters and text."""

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups != 0:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups != 0:
            raise ValueError("out_channels must be divisible by groups")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = sizes(kernel_size, self.dims)
        self.stride = sizes(stride, self.dims)
        self.dilation = sizes(dilation, self.dims)
        self.output_padding = sizes(output_padding, self.dims)
        self.groups = groups
        self.padding: str | tuple[int, ...]
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{padding}', should be one of 'same', 'valid'")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = sizes(padding, self.dims)
        known = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in known:
            raise ValueError(f"padding_mode must be one of {known}, but got padding_mode='{padding_mode}'")
        if padding_mode != "zeros":
            if self.transposed:
                raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
            raise NotImplementedError(
                f"{type(self).__name__}: padding_mode='{padding_mode}' is not supported, only 'zeros'; "
                "pad the input beforehand"
            )
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter(empty(first, second // groups, *self.kernel_size, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform within ``1 / sqrt(fan_in)``."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(tuple(self.weight.shape)[1:])
            if fan_in != 0:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        none, once = (0,) * self.dims, (1,) * self.dims
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != none:
            # A word is told without quotes, as PyTorch does.
            text += f", padding={self.padding}"
        if self.dilation != once:
            text += f", dilation={self.dilation}"
        if self.output_padding != none:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text


class Conv1d(_Conv):
    """Convolution (cross-correlation) of sequences with learned kernels.

    Shape: ``(N, C_in, L)`` or ``(C_in, L)`` to ``(N, C_out, L')``; weight ``(C_out, C_in / groups, K)``.
    Raises: as Conv2d.

    >>> import tracejit as tj
    >>> tj.nn.Conv1d(3, 8, 3, padding=1)(tj.ones(2, 3, 5)).shape
    tracejit.Size([2, 8, 5])
    """

    dims = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Convolution (cross-correlation) of images with learned kernels.

    Shape: ``(N, C_in, H, W)`` or ``(C_in, H, W)`` to ``(N, C_out, H', W')``; weight
    ``(C_out, C_in / groups, kH, kW)``.
    Raises: ValueError where groups do not divide the channels or padding is no known word; NotImplementedError for
    a ``padding_mode`` other than "zeros".

    >>> import tracejit as tj
    >>> tj.nn.Conv2d(3, 8, 3, padding=1)(tj.ones(2, 3, 5, 5)).shape
    tracejit.Size([2, 8, 5, 5])
    """

    dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _ConvTranspose(_Conv):
    """What both transposed convolutions share."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def _output_padding(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output padding that gives a wanted size. Raises: ValueError for a size out of reach."""
        if output_size is None:
            return self.output_padding
        assert not isinstance(self.padding, str)
        wanted = tuple(output_size)[-self.dims :]
        result = []
        for dim, size in enumerate(wanted):
            least = (
                (input.shape[dim - self.dims] - 1) * self.stride[dim]
                - 2 * self.padding[dim]
                + self.dilation[dim] * (self.kernel_size[dim] - 1)
                + 1
            )
            if not least <= size < least + self.stride[dim]:
                raise ValueError(
                    f"requested an output size of {wanted}, but size {dim} must be from {least} to "
                    f"{least + self.stride[dim] - 1}"
                )
            result.append(size - least)
        return tuple(result)


class ConvTranspose1d(_ConvTranspose):
    """The adjoint of Conv1d with the same options: sequences spread by learned kernels.

    Shape: ``(N, C_in, L)`` or ``(C_in, L)`` to ``(N, C_out, L')``; weight ``(C_in, C_out / groups, K)``.
    """

    dims = 1

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        more = self._output_padding(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """The adjoint of Conv2d with the same options: images spread by learned kernels.

    Shape: ``(N, C_in, H, W)`` or ``(C_in, H, W)`` to ``(N, C_out, H', W')``; weight
    ``(C_in, C_out / groups, kH, kW)``.

    >>> import tracejit as tj
    >>> tj.nn.ConvTranspose2d(3, 8, 2, stride=2)(tj.ones(2, 3, 5, 5)).shape
    tracejit.Size([2, 8, 10, 10])
    """

    dims = 2

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        more = self._output_padding(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )
