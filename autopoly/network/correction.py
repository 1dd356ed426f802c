"""The correction pass: draw the mask again where a user says that the outline runs elsewhere.

The paper lets corrected vertices move their neighbours (III-C); a vertex at the tip of a leg that was missed should bring the whole leg. B
batch, K contour vertices, S crop side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopoly.config import NetworkConfig

SPREADS = (0.012, 0.04, 0.13)
"""Standard deviations of the marks of one correction, crop sides: exactly here, the part around it, its side of the object."""
WIDTH8, WIDTH16 = 96, 128


class CorrectionPass(nn.Module):
    """Add to the mask logits what corrections change, from what the network saw: a small U-net over strides 4, 8 and 16."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.correction_width
        self.enter = nn.Conv2d(config.width4 + 4 + len(SPREADS), width, 3, padding=1)
        self.down8, self.mix8 = nn.Conv2d(width, WIDTH8, 2, 2), nn.Conv2d(WIDTH8, WIDTH8, 3, padding=1)
        self.down16, self.lateral16 = nn.Conv2d(WIDTH8, WIDTH16, 2, 2), nn.Conv2d(config.width16, WIDTH16, 1)
        self.mix16 = nn.ModuleList(nn.Conv2d(WIDTH16, WIDTH16, 3, padding=reach, dilation=reach) for reach in (1, 2, 3, 1))
        self.up8, self.fuse8 = nn.Conv2d(WIDTH16, WIDTH8, 1), nn.Conv2d(WIDTH8, WIDTH8, 3, padding=1)
        self.up4, self.fuse4 = nn.Conv2d(WIDTH8, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 4, 3, padding=1)  # the four quarters of a cell
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.requires_grad_(False)  # until its own training

    def forward(self, coarse: Tensor, fused: Tensor, fine: Tensor, contour: Tensor, fixed: Tensor) -> Tensor:
        """Give the mask logits (B, 1, S/2, S/2) after corrections; those of a crop without any stay as they are.

        ``coarse`` is M_0 (B, C, S/16, S/16), ``fused`` M (B, C, S/4, S/4), ``fine`` the logits before; ``fixed`` (B, K) bool marks the
        vertices of ``contour`` (B, K, 2), in crop sides, that lie where the outline truly runs.
        """
        places = marks(contour, fixed, fused.shape[-1])
        seen = torch.cat([fused, torch.tanh(F.pixel_unshuffle(fine, 2) / 4).to(fused.dtype), places.to(fused.dtype)], dim=1)
        x4 = F.relu(self.enter(seen.contiguous(memory_format=torch.channels_last)))
        x8 = F.relu(self.down8(x4))
        x8 = x8 + F.relu(self.mix8(x8))
        x16 = F.relu(self.down16(x8) + self.lateral16(coarse))
        for convolution in self.mix16:
            x16 = x16 + F.relu(convolution(x16))
        x8 = x8 + _enlarged(self.up8(x16), x8)
        x8 = x8 + F.relu(self.fuse8(x8))
        x4 = x4 + _enlarged(self.up4(x8), x4)
        x4 = x4 + F.relu(self.fuse4(x4))
        change = F.pixel_shuffle(self.out(x4), 2).float()
        return torch.where(fixed.any(1)[:, None, None, None], fine + change, fine)


def marks(contour: Tensor, fixed: Tensor, side: int) -> Tensor:
    """Draw the corrections onto maps (B, SPREADS, side, side), from 1 where one lies to 0 far from all of them."""
    most = max(1, int(fixed.sum(1).max()))
    some, which = fixed.to(torch.uint8).topk(most, dim=1)  # (B, most): whatever is fixed, then filled up with others
    points = torch.gather(contour.float(), 1, which.unsqueeze(-1).expand(-1, -1, 2))
    cells = (torch.arange(side, device=contour.device, dtype=torch.float32) + 0.5) / side
    x, y = (points[..., axis, None] - cells for axis in (0, 1))  # (B, most, side)
    squared = x.square().unsqueeze(2) + y.square().unsqueeze(3)
    nearest = squared.masked_fill((some == 0)[..., None, None], float("inf")).amin(1, keepdim=True)
    return torch.cat([torch.exp(-nearest / (2 * spread**2)) for spread in SPREADS], dim=1)


def _enlarged(small: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(small, size=like.shape[-2:], mode="bilinear", align_corners=False)
