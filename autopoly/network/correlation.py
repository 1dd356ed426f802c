"""Pixel-wise correlation between target and search features (eq. 1). B batch, C channels, H W rows and columns of the search features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def target_features(search: Tensor, search_scale: float, grid: int) -> Tensor:
    """Sample the target branch: the central 1/s^2 of the search features, on a fixed grid.

    Both branches share weights and see the same crop, so the target's features are a part of the search features and one backbone pass
    serves both. ``search`` (B, C, H, W); the result is (B, C, grid, grid), cell centres of the box, whatever H, W and s are: the
    correlation then has grid^2 maps for every crop side.
    """
    centres = (torch.arange(grid, device=search.device, dtype=torch.float32) * 2 + 1 - grid) / (grid * search_scale)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    where = torch.stack([x, y], dim=-1).expand(search.shape[0], grid, grid, 2)  # (B, grid, grid, 2)
    # bf16 bilinear weights are too coarse.
    return F.grid_sample(search.float(), where, mode="bilinear", align_corners=False).to(search.dtype)


def pixelwise_correlation(target: Tensor, search: Tensor) -> Tensor:
    """Correlate every target pixel, as a 1x1 kernel, with the search features (eq. 1).

    ``target`` (B, C, Ht, Wt), ``search`` (B, C, H, W); the result (B, Ht * Wt, H, W) is ``C_i = k_i * S`` divided by sqrt(C), which keeps
    its variance that of the features.
    """
    batch, channels, height, width = search.shape
    kernels = target.flatten(2).transpose(1, 2)  # (B, Ht Wt, C)
    maps = torch.bmm(kernels, search.flatten(2)) / math.sqrt(channels)  # (B, Ht Wt, H W)
    return maps.view(batch, -1, height, width)
