"""MobileNet-v1 feature extractor (Howard et al. 2017, arXiv 1704.04861), the backbone of the bundled model.

Written here rather than taken from ``transformers`` for two reasons that a user feels: importing the latter's models
costs about two seconds at every process start, and its BatchNorm momentum (0.9997 in torch's convention) keeps
only the last batch's statistics in training. State-dict keys are those of ``transformers.MobileNetV1Model``, so
its checkpoints load as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
#: Layers after the stem that stay in float32 where the rest is narrower: on dark, even tiles bfloat16 rounds away there
#: what the tile has of contrast, and no later layer brings it back.
_EXACT_LAYERS = 2


class ConvLayer(nn.Module):
    """Convolution with TensorFlow's "SAME" padding, BatchNorm, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.normalization: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.05)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        norm = self.normalization
        if isinstance(norm, nn.BatchNorm2d) and not norm.training:
            return F.relu6(self._convolved(x, *self._folded(norm)), inplace=True)
        return F.relu6(norm(self._convolved(x, self.convolution.weight, self.convolution.bias)), inplace=True)

    def _folded(self, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Kernel and bias that convolve and normalise at once: a pass less over activations, forward and backward."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.convolution.weight * gain.view(-1, 1, 1, 1), norm.bias - norm.running_mean * gain

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel, stride, groups = self.convolution.kernel_size[0], self.convolution.stride[0], self.convolution.groups
        if kernel == 1 or stride == 1:  # symmetric: let the convolution pad, which saves a copy
            return F.conv2d(x, weight, bias, stride, padding=kernel // 2, groups=groups)
        rows, columns = x.shape[-2:]
        if groups > 1 and stride == 2 and torch.is_grad_enabled() and x.device.type == "cpu":
            # The CPU's gradient of a depthwise kernel with strides takes several times that of all places.
            whole = F.conv2d(x, weight, bias, padding=kernel // 2, groups=groups)
            kept = whole[:, :, (rows + 1) % 2 :: 2, (columns + 1) % 2 :: 2]
            return kept.contiguous(memory_format=torch.channels_last)
        x = F.pad(x, (*_same(columns, kernel, stride), *_same(rows, kernel, stride)))
        return F.conv2d(x, weight, bias, stride, groups=groups)


class MobileNetV1(nn.Module):
    """(N, 3, H, W) in [-1, 1] to a feature map (N, width, ceil(H / stride), ceil(W / stride)).

    Args:
        depth_multiplier: scales every layer's width.
        output_stride: 32 as published, or 16 or 8: strides beyond it are set to 1, so feature vectors lie closer.
    """

    def __init__(self, depth_multiplier: float = 1.0, output_stride: int = 32) -> None:
        super().__init__()
        channels, *widths = (max(8, int(width * depth_multiplier)) for width in _WIDTHS)
        self.conv_stem = ConvLayer(3, channels, 3, stride=2)
        self.layer = nn.ModuleList()
        reached = 2
        for stride, outputs in zip(_STRIDES, widths, strict=True):
            if stride == 2 and reached >= output_stride:
                stride = 1
            reached *= stride
            self.layer.append(ConvLayer(channels, channels, 3, stride, groups=channels))
            self.layer.append(ConvLayer(channels, outputs, 1))
            channels = outputs
        self.width = channels
        self.stride = reached
        self._narrow: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Pixel values to the last feature map."""
        with torch.autocast(x.device.type, enabled=False):  # in training too
            x = self.conv_stem(x if self._narrow is None else x.float())
            for layer in self.layer[:_EXACT_LAYERS]:
                x = layer(x)
        x = x if self._narrow is None else x.to(self._narrow)
        for layer in self.layer[_EXACT_LAYERS:]:
            x = layer(x)
        return x

    def widest(self, size: int) -> int:
        """Values that the layer with the largest input and output holds for one (3, size, size) image."""
        layers: list[tuple[Any, int]] = [(self.layer[1].convolution, 2), (self.layer[-1].convolution, self.stride)]
        return max((layer.in_channels + layer.out_channels) * (-(-size // stride)) ** 2 for layer, stride in layers)

    def fuse(self, dtype: torch.dtype) -> None:
        """For inference: fold every BatchNorm into its convolution, and compute in ``dtype`` but for the first layers.

        Call in eval mode.
        """
        self.float()
        for module in self.modules():
            if isinstance(module, ConvLayer) and isinstance(module.normalization, nn.BatchNorm2d):
                module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
                module.normalization = nn.Identity()
        self._narrow = None if dtype == torch.float32 else dtype
        self.layer[_EXACT_LAYERS:].to(dtype)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's SAME padding puts them."""
    total = max(kernel - stride if size % stride == 0 else kernel - size % stride, 0)
    return total // 2, total - total // 2
