"""What the network is trained on (eq. 4). B batch, K contour vertices, S crop side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autopoly.network.siamanno import Output


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the loss's terms."""

    vertex: float = 10.0
    """alpha of the paper (III-D)."""
    vertex_beta: float = 0.02
    """Where smooth L1 turns from square to absolute, in box sides. The paper is silent."""
    mask: float = 1.0
    """BCE plus Dice of the auxiliary mask, which the paper does not have."""
    edge: float = 8.0
    """How much more than others the mask's cells within two of the outline count in its BCE: most cells are easy."""
    quality: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Truth of B crops: ``contour`` (B, K, 2) matched vertices in crop px, ``mask`` (B, S/2, S/2) coverage in [0, 1], ``box_side`` in crop
    px.

    ``held`` (B, K) bool: vertices that were given, which no loss counts.
    """

    contour: Tensor
    mask: Tensor
    held: Tensor
    box_side: float


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Give one minus the soft Dice overlap, mean over the batch; both (B, ...), target in [0, 1]."""
    p, t = torch.sigmoid(logits).flatten(1), target.flatten(1)
    return (1 - (2 * (p * t).sum(1) + 1) / (p.square().sum(1) + t.square().sum(1) + 1)).mean()


def boundary_of(mask: Tensor, reach: int = 1) -> Tensor:
    """Mark the cells (B, 1, H, W) of a coverage mask where inside and outside meet within ``reach`` cells."""
    high = F.max_pool2d(mask, 2 * reach + 1, 1, reach)
    low = -F.max_pool2d(-mask, 2 * reach + 1, 1, reach)
    return ((high - low) > 0.5).to(mask.dtype)


def mask_loss(logits: Tensor, target: Tensor, edge: float) -> Tensor:
    """BCE plus Dice of masks (B, 1, H, W); in the BCE a cell within two of the outline weighs ``1 + edge``, any other 1.

    Each crop counts the same, so that the mean over the shares of a batch is that of the batch.
    """
    weight = 1 + edge * boundary_of(target, 2)
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none").flatten(1).sum(1)
    return (entropy / weight.flatten(1).sum(1)).mean() + dice(logits, target)


def vertex_loss(contour: Tensor, target: Tensor, held: Tensor, box_side: float, beta: float) -> Tensor:
    """Smooth L1 between matched vertices (B, K, 2), over the box side (eq. 4), mean over the free vertices of a crop, then over crops."""
    error = F.smooth_l1_loss(contour / box_side, target / box_side, beta=beta, reduction="none").mean(-1)
    free = (~held).to(error.dtype)
    return ((error * free).sum(1) / free.sum(1).clamp(min=1)).mean()


def total(output: Output, targets: Targets, iou: Tensor, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the loss and its parts. ``iou`` (B, 2): the true IoU of the contours and of the mask's outlines, which the quality learns."""
    fine = targets.mask.unsqueeze(1)
    coarse = F.avg_pool2d(fine, 2)  # (B, 1, S/4, S/4)
    vertex = torch.stack(
        [vertex_loss(contour, targets.contour, targets.held, targets.box_side, config.vertex_beta) for contour in output.contours]
    ).sum()
    parts = {
        "vertex": vertex,
        "boundary": dice(output.boundary_logits, boundary_of(coarse)),
        "mask": mask_loss(output.mask_logits, fine, config.edge),
        "quality": F.binary_cross_entropy_with_logits(output.quality_logits.float(), iou),
    }
    loss = config.vertex * parts["vertex"] + parts["boundary"] + config.mask * parts["mask"] + config.quality * parts["quality"]
    return loss, parts
