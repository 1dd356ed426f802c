"""From the correlation to a fine map: attention at stride 16, then the U-net fusion of eq. 2. B batch, C channels, H W rows and columns."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopoly.config import NetworkConfig
from autopoly.errors import CheckpointError
from autopoly.network.correlation import pixelwise_correlation, target_features


class Block(nn.Module):
    """One pre-norm transformer block over the stride-16 cells (not in the paper: dense products are the cheap way to capacity on a CPU)."""

    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        if width % heads:
            raise CheckpointError(f"width16 = {width}: expected a multiple of {heads}, the number of attention heads")
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        batch, count, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]  # (B, heads, N, C / heads)
        if query.requires_grad:
            # The backward pass of the CPU's fused attention takes three times as long as that of plain products at these sizes.
            weights = torch.softmax((query / math.sqrt(width // self.heads)) @ key.transpose(-1, -2), dim=-1)
            mixed = weights.to(value.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)  # a quarter of the time
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        deeper: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + deeper


class Detail(nn.Module):
    """See the crop itself at stride 4: what an outline's exact place needs and a backbone trained to name things has thrown away.

    The paper has no such branch. Dense convolutions over 4 x 4 pixel blocks cost a thirtieth of a training step; unfreezing the backbone's
    first stages, which would serve the same end, doubles it.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.out = nn.Conv2d(width, out, 1)
        nn.init.normal_(self.out.weight, std=0.001)  # a checkpoint that had no such branch goes on as it was

    def forward(self, crops: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, out, S/4, S/4)."""
        features: Tensor = self.out(self.convolutions(crops))
        return features


class Fusion(nn.Module):
    """Correlate, then fuse with the backbone's maps in inverse order (eq. 2) down to stride 4.

    A last step at stride 2 would cost more than the whole backbone.
    """

    def __init__(self, channels: tuple[int, ...], config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c4, c8, c16, c32 = channels
        width = config.width16
        self.reduce16, self.reduce32 = nn.Conv2d(c16, width, 1), nn.Conv2d(c32, width, 1)
        maps = config.target_grid**2 if config.correlation else 0
        self.mix = nn.Conv2d(2 * width + maps, width, 1)
        self.place = nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(config.blocks16)))
        self.norm = nn.LayerNorm(width)
        self.down8, self.lateral8 = nn.Conv2d(width, config.width8, 1), nn.Conv2d(c8, config.width8, 1)
        self.fuse8 = nn.ModuleList(nn.Conv2d(config.width8, config.width8, 3, padding=1) for _ in range(2))
        self.down4, self.lateral4 = nn.Conv2d(config.width8, config.width4, 1), nn.Conv2d(c4, config.width4, 1)
        self.fuse4 = nn.ModuleList(nn.Conv2d(config.width4, config.width4, 3, padding=1) for _ in range(2))
        self.detail = Detail(config.detail, config.width4) if config.detail else None

    def forward(self, crops: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map normal crops (B, 3, S, S) and their pyramid to (M_0 (B, width16, S/16, S/16), M (B, width4, S/4, S/4))."""
        f4, f8, f16, f32 = pyramid
        search = self.reduce16(f16)  # (B, width16, H, W)
        parts = [search, F.interpolate(self.reduce32(f32), size=search.shape[-2:], mode="bilinear", align_corners=False)]
        if self.config.correlation:
            target = target_features(search, self.config.search_scale, self.config.target_grid)
            parts.append(pixelwise_correlation(target, search).to(search.dtype))
        mixed = F.relu(self.mix(torch.cat(parts, dim=1)))
        batch, width, height, columns = mixed.shape
        tokens = mixed.flatten(2).transpose(1, 2) + self.place(self._places(height, columns, mixed.device))  # (B, N, C)
        coarse = self.norm(self.blocks(tokens)).transpose(1, 2).view(batch, width, height, columns)
        fused = _double(self.down8(coarse), self.lateral8(f8), self.fuse8)
        near = self.lateral4(f4)
        if self.detail is not None:
            near = near + self.detail(crops)
        fused = _double(self.down4(fused), near, self.fuse4)
        return coarse, fused

    def _places(self, height: int, width: int, device: torch.device) -> Tensor:
        """Give each stride-16 cell its place in the box's frame (N, 6): x, y in half box sides, their squares, how far inside the box."""
        y = (torch.arange(height, device=device, dtype=torch.float32) * 2 + 1 - height) / height * self.config.search_scale
        x = (torch.arange(width, device=device, dtype=torch.float32) * 2 + 1 - width) / width * self.config.search_scale
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        inside_x, inside_y = 1 - grid_x.abs(), 1 - grid_y.abs()
        return torch.stack([grid_x, grid_y, grid_x**2, grid_y**2, inside_x, inside_y], dim=-1).view(-1, 6)


def _double(coarse: Tensor, lateral: Tensor, convolutions: nn.ModuleList) -> Tensor:
    """M_j = f_j(Interpolate(M_{j-1}) + C_j), eq. 2."""
    fused = F.relu(F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False) + lateral)
    for convolution in convolutions:
        fused = F.relu(convolution(fused))
    return fused
