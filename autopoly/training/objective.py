"""A batch through the network, and how good its answer truly is. B batch, K contour vertices, S crop side."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autopoly import devices
from autopoly.config import NetworkConfig
from autopoly.errors import RecipeError
from autopoly.geometry import raster
from autopoly.network.siamanno import Output, SiamAnno, box_contour
from autopoly.training.losses import Targets
from autopoly.types import Polygon

APART = 6
"""Vertices to either side of a corrected one that the user leaves to the network."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str, device: str) -> torch.dtype:
    """Give the number type of a precision; ``auto`` is the fastest that a device multiplies in hardware.

    Raise RecipeError for fp16 elsewhere than on CUDA.
    """
    kind = torch.device(device).type
    if precision == "auto":
        return torch.bfloat16 if devices.has_bf16(device) else torch.float16 if kind == "cuda" else torch.float32
    if precision == "fp16" and kind != "cuda":
        raise RecipeError(f"--precision fp16: needs a CUDA device, this is {kind}; choose bf16, fp32 or auto")
    return PRECISIONS[precision]


def unscaled_dtype(precision: str, device: str) -> torch.dtype:
    """Give the number type for a loss that is not scaled: float32 instead of float16, in which small gradients vanish."""
    dtype = dtype_of(precision, device)
    return torch.float32 if dtype == torch.float16 else dtype


def forward(
    network: nn.Module, config: NetworkConfig, batch: dict[str, Tensor], device: str, dtype: torch.dtype, held: Tensor | None = None
) -> tuple[Output, Targets]:
    """Run the network on a batch of the loader and give its output with the batch's targets; a user holds ``held`` (B, K) in place."""
    pixels = batch["pixels"].to(device, non_blocking=True).permute(0, 3, 1, 2)
    side = pixels.shape[-1]
    contour = batch["contour"].to(device, non_blocking=True)
    initial = box_contour(side, config.search_scale, config.vertices, pixels.shape[0], device)
    held = torch.zeros(initial.shape[:2], dtype=torch.bool, device=device) if held is None else held
    initial = torch.where(held.unsqueeze(-1), contour, initial)
    with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
        output = cast(Output, network(pixels, initial, held))
    mask = batch["mask"].to(device, non_blocking=True).float() / 255
    return output, Targets(contour, mask, held, side / config.search_scale)


@torch.no_grad()
def corrected(network: SiamAnno, batch: dict[str, Tensor], device: str, dtype: torch.dtype) -> Tensor:
    """Choose the vertices (B, K) that a user puts in place: of what the network predicts without help, the worst (paper, III-C)."""
    wanted = batch["corrections"]
    held = torch.zeros(batch["contour"].shape[:2], dtype=torch.bool)
    some = wanted.nonzero().squeeze(1)
    if len(some):
        output, targets = forward(network, network.config, {key: value[some] for key, value in batch.items()}, device, dtype)
        held[some] = worst(output.contours[-1].float(), targets.contour, wanted[some].to(device)).cpu()
    return held.to(device)


def worst(contours: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts`` (B,) worst vertices (B, K) of contours (B, K, 2). A user corrects once where several neighbours are wrong."""
    error = errors(contours, targets)
    vertices = torch.arange(contours.shape[1], device=contours.device)
    held = torch.zeros_like(error, dtype=torch.bool)
    for number in range(int(counts.max())):
        at = error.argmax(1, keepdim=True)  # (B, 1)
        held |= (vertices == at) & (counts > number).unsqueeze(1)
        apart = (vertices - at).abs()
        error = error.masked_fill(torch.minimum(apart, contours.shape[1] - apart) <= APART, -1.0)
    return held


def errors(contours: Tensor, targets: Tensor) -> Tensor:
    """Say how wrong the vertices of contours (B, K, 2) are, (B, K): how far from the true outline, or their place from the contour.

    A vertex that lies elsewhere *on* the outline is no error that anybody sees.
    """
    between = torch.cdist(contours, targets, compute_mode="donot_use_mm_for_euclid_dist")  # (B, K, K); by products it is 0.1 px off
    return torch.maximum(between.amin(2), between.amin(1))


def true_iou(output: Output, targets: Targets) -> Tensor:
    """Measure the IoU of contours and mask outlines with the truth at S/2, (B, 2)."""
    truth = targets.mask > 0.5
    size = (truth.shape[-2], truth.shape[-1])
    # Numbers too large for fp16 make contours of nan: a step that is skipped, not an end.
    rings = np.nan_to_num((output.contours[-1].detach().float() / 2).cpu().numpy().astype(np.float64))
    filled: list[NDArray[np.bool_]] = [raster.fill((Polygon(ring),), size) for ring in rings]
    contour = torch.from_numpy(np.stack(filled)).to(truth.device)
    mask = output.mask_logits.detach().squeeze(1) > 0
    return overlap(torch.stack([contour, mask], dim=1), truth.unsqueeze(1))


def overlap(found: Tensor, known: Tensor) -> Tensor:
    """Give the IoU of masks (..., H, W) bool, (...); 0 where both are empty."""
    return (found & known).sum((-2, -1)).float() / (found | known).sum((-2, -1)).clamp(min=1)
