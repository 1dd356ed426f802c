"""One convolution with all that makes it fast on a CPU: its ReLU6 in the same pass, a cheap backward pass for frozen depthwise kernels.

Measured at 224 px on two cores: a ReLU6 of its own takes twice the time of the 1x1 convolution before it, because the map goes through
memory twice more. B batch, C channels, H W rows and columns.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Convolution(torch.autograd.Function):
    """Convolve, add the bias and clamp to [0, 6] in one pass over memory."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], groups: int, relu6: bool
    ) -> Tensor:
        kernel = weight.to(x.dtype)
        shift = None if bias is None else bias.to(x.dtype)
        attribute, bounds = ("hardtanh", [0.0, 6.0]) if relu6 else ("none", [])
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, kernel, shift, padding, stride, [1, 1], groups, attribute, bounds, "")
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, kernel, y if relu6 else None)
        ctx.stride, ctx.padding, ctx.groups, ctx.shape = stride, padding, groups, x.shape
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel, y = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if y is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
        none = (None,) * 4
        if kernel.shape[1] == 1 and ctx.groups > 1 and not needs[1] and not needs[2]:
            return _through_depthwise(gradient, kernel, ctx.stride[0], ctx.padding[0], ctx.shape[-2:]), None, None, *none
        if x is None:
            x = kernel.new_empty(1).expand(ctx.shape)  # only its shape is read
        sizes = None if ctx.dtypes[1] is None else [kernel.shape[0]]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            gradient, x, kernel, sizes, ctx.stride, ctx.padding, [1, 1], False, [0, 0], ctx.groups, needs
        )
        return (
            grad_x,
            None if grad_weight is None else grad_weight.to(ctx.dtypes[0]),
            None if grad_bias is None else grad_bias.to(ctx.dtypes[1]),
            *none,
        )


def _through_depthwise(gradient: Tensor, weight: Tensor, stride: int, padding: int, size: torch.Size) -> Tensor:
    """Give the gradient to the input (B, C, *size) of a depthwise convolution.

    It is itself a depthwise convolution, of the output's gradient with the flipped kernel; as a *forward* convolution it takes a third of
    the time of the CPU's own backward pass.
    """
    kernel = weight.shape[-1]
    pad = kernel - 1 - padding
    flipped = weight.flip(-1, -2).contiguous(memory_format=torch.channels_last)
    if stride == 1:
        return F.conv2d(gradient, flipped, None, 1, pad, 1, weight.shape[0])
    batch, channels, rows, columns = gradient.shape
    # Between strides, and in rows and columns that no stride reached, the gradient is zero.
    wide = gradient.new_zeros((batch, channels, size[0] + kernel - 1, size[1] + kernel - 1)).contiguous(memory_format=torch.channels_last)
    wide[..., pad : pad + (rows - 1) * stride + 1 : stride, pad : pad + (columns - 1) * stride + 1 : stride] = gradient
    return F.conv2d(wide, flipped, None, 1, 0, 1, weight.shape[0])


class FastConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding (``same``) and a ReLU6 behind it (``relu6``), where the source network had them."""

    same = False
    relu6 = False

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W) as nn.Conv2d does."""
        padding, weight = [int(side) for side in self.padding], self.weight
        if self.same:
            pads = [
                max((-(-side // s) - 1) * s + k - side, 0)
                for side, s, k in zip(input.shape[-2:], self.stride, self.kernel_size, strict=True)
            ]
            padding = [-(-pad // 2) for pad in pads]
            # An odd pad has its last row behind: a zero before the kernel moves it there. Padding the map itself would copy it.
            weight = F.pad(weight, (pads[1] % 2, 0, pads[0] % 2, 0)) if any(pad % 2 for pad in pads) else weight
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        if _fused(input):
            fused: Tensor = _Convolution.apply(input, weight, self.bias, list(self.stride), padding, self.groups, self.relu6)
            return fused
        y = F.conv2d(input, weight, self.bias, self.stride, (padding[0], padding[1]), 1, self.groups)
        return F.relu6(y) if self.relu6 else y


def _fused(x: Tensor) -> bool:
    """Whether the library behind the CPU's convolutions is there and takes this kind of number."""
    here = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and here and x.dtype in (torch.float32, torch.bfloat16)


def is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Say whether a module is a convolution and no more, or timm's with "same" padding: others change their weights as they are used."""
    return type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"


def use_fast_convolutions(module: nn.Module) -> None:
    """Replace every plain convolution below ``module`` by :class:`FastConv2d`, in place, sharing its parameters; a ReLU6 that follows goes
    inside.
    """
    for parent in list(module.modules()):
        fast: FastConv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU6) and fast is not None:
                fast.relu6 = True
                setattr(parent, name, nn.Identity())
            fast = None
            if is_plain(child) and child.dilation == (1, 1) and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                fast = FastConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    child.padding,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                fast.weight, fast.bias = child.weight, child.bias
                fast.same = type(child).__name__ == "Conv2dSame"
                setattr(parent, name, fast)
