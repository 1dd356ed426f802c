"""SiamAnno: a crop around a box in, a contour out (paper, section III). B batch, K contour vertices, S crop side.

No files, no numpy and no image coordinates here: crops and crop px only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopoly.config import NetworkConfig
from autopoly.network.backbone import Backbone
from autopoly.network.correction import CorrectionPass
from autopoly.network.edge import EdgePass
from autopoly.network.fusion import Fusion
from autopoly.network.head import ContourHead, sample


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What the network says about B crops.

    ``contours`` has one (B, K, 2) in crop px per refinement, the last is the result. ``mask_logits`` are (B, 1, S/2, S/2),
    ``boundary_logits`` (B, 1, S/4, S/4). ``quality_logits`` (B, 2): the estimated IoU of the contour and of the mask's outline, before the
    sigmoid.
    """

    contours: tuple[Tensor, ...]
    mask_logits: Tensor
    boundary_logits: Tensor
    quality_logits: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the network sees in B crops, whatever a user corrects: M_0 ``coarse`` (B, C, S/16, S/16), M ``fused`` (B, C, S/4, S/4), mask
    logits ``fine`` (B, 1, S/2, S/2).
    """

    coarse: Tensor
    fused: Tensor
    fine: Tensor


class Quality(nn.Module):
    """Estimate the IoU of the contour and of the mask's outline from what the network sees and how much its two answers agree.

    The paper has no such output. Its inputs carry no gradient: an estimate must not bend what it estimates.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(config.width16 + 2 * config.width4 + 8, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 2)
        )

    def forward(self, coarse: Tensor, fused: Tensor, mask: Tensor, boundary: Tensor, contours: list[Tensor]) -> Tensor:
        """Give (B, 2) logits from M_0 (B, C, H, W), M, the logits (B, 1, H, W) and the contours [(B, K, 2)] in crop sides."""
        coarse, fused, mask, boundary = coarse.detach(), fused.detach(), mask.detach().float(), boundary.detach().float()
        inside = torch.sigmoid(mask)  # (B, 1, H, W)
        hard = (inside > 0.5).float()
        # The IoU that the mask would have if its own probabilities were true.
        own = (inside * hard).sum((1, 2, 3)) / (hard + inside * (1 - hard)).sum((1, 2, 3)).clamp(min=1.0)
        area = inside.mean((1, 2, 3))
        weights = torch.cat([inside, 1 - inside], dim=1).flatten(2)  # (B, 2, H W): the mask and what is not
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1.0)
        means = (fused.flatten(2) @ weights.transpose(1, 2).to(fused.dtype)).flatten(1).float()  # (B, 2 C)
        last, before = contours[-1].detach(), contours[-2 if len(contours) > 1 else -1].detach()
        on_mask = sample(inside, last).squeeze(1)  # (B, K): a half everywhere when contour and mask agree
        on_edge = torch.sigmoid(sample(boundary, last).squeeze(1))
        x, y = last.unbind(-1)
        enclosed = ((x * torch.roll(y, -1, 1) - torch.roll(x, -1, 1) * y).sum(1) / 2).clamp(-2, 2)
        moved = (last - before).norm(dim=-1).mean(1)
        numbers = [own, area, enclosed, area - enclosed, on_mask.mean(1), (on_mask - 0.5).abs().mean(1), on_edge.mean(1), moved * 10]
        return self.mlp(torch.cat([coarse.float().mean((2, 3)), means, torch.stack(numbers, dim=1)], dim=1))  # type: ignore[no-any-return]


class SiamAnno(nn.Module):
    """The network of the paper. ``pretrained`` loads the backbone's ImageNet weights."""

    def __init__(self, config: NetworkConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, pretrained)
        self.fusion = Fusion(self.backbone.channels, config)
        self.boundary = nn.Conv2d(config.width4, 1, 3, padding=1)
        self.mask = nn.Conv2d(config.width4, 4, 3, padding=1)  # the four quarters of a cell
        self.head = ContourHead(config)
        self.quality = Quality(config)
        # Apart from the rest: it works on outlines, at the picture's own resolution, and learns when all else is done.
        self.edge = EdgePass(config.edge_width) if config.edge_width else None
        self.correction = CorrectionPass(config) if config.correction_width else None

    def forward(self, crops: Tensor, initial: Tensor, fixed: Tensor | None = None) -> Output:
        """Predict the contours of B crops.

        ``crops`` (B, 3, S, S) RGB in [0, 255], S a multiple of 32; ``initial`` (B, K, 2) crop px, usually the box's own contour; ``fixed``
        (B, K) bool: vertices that stay where ``initial`` has them. Where the network has a correction pass, masks follow them too.
        """
        side = crops.shape[-1]
        seen = self.look(crops)
        coarse, fused, fine = seen.coarse, seen.fused, seen.fine
        if self.correction is not None and fixed is not None and not self.training:
            fine = self.correction(coarse, fused, fine, initial.float() / side, fixed)
        mask, boundary = F.avg_pool2d(fine, 2), self.boundary(fused)  # (B, 1, S/4, S/4)
        with self._exact(crops.device.type):
            maps = (fused, mask, boundary) if self.training else (fused.float(), mask.float(), boundary.float())
            contours = self.head(*maps, initial.float() / side, fixed)
        quality = self.quality(coarse, fused, mask, boundary, contours)
        return Output(tuple(contour * side for contour in contours), fine.float(), boundary.float(), quality)

    def look(self, crops: Tensor) -> Seen:
        """Look at B crops, (B, 3, S, S) as in :meth:`forward`."""
        normal = self.backbone.normalize(crops)
        with self._exact(crops.device.type):
            pyramid = self.backbone(normal)
        coarse, fused = self.fusion(normal, pyramid)
        return Seen(coarse, fused, F.pixel_shuffle(self.mask(fused), 2))

    def _exact(self, kind: str) -> AbstractContextManager[object]:
        """Compute in float32 even where autocast says bf16, unless in training.

        Rounding in the backbone and the head moves one vertex in eight by more than half a pixel, that in between one in a thousand; the
        two take a tenth more time.
        """
        return nullcontext() if self.training else torch.autocast(kind, enabled=False)


def box_contour(side: int, search_scale: float, count: int, batch: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Give the contour of the box itself, (B, K, 2) crop px: K points along the central square, clockwise from its top middle."""
    half = side / (2 * search_scale)
    t = torch.arange(count, device=device, dtype=torch.float32) * 8 / count  # perimeter in half sides, 0 at the top middle
    x = torch.where(t < 1, t, torch.where(t < 3, 1.0, torch.where(t < 5, 4 - t, torch.where(t < 7, -1.0, t - 8))))
    y = torch.where(t < 1, -1.0, torch.where(t < 3, t - 2, torch.where(t < 5, 1.0, torch.where(t < 7, 6 - t, -1.0))))
    return (torch.stack([x, y], dim=-1) * half + side / 2).expand(batch, count, 2)


__all__ = ["Output", "Quality", "Seen", "SiamAnno", "box_contour"]
