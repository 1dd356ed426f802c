"""Measure the network on held-out samples, in the crop: quick, and of contour and mask apart."""

from __future__ import annotations

import numpy as np
import torch

from autopoly.metrics.summary import spearman
from autopoly.network.siamanno import SiamAnno
from autopoly.training.batches import stacked
from autopoly.training.objective import dtype_of, forward, true_iou
from autopoly.training.samples import Samples
from autopoly.training.schedule import TrainConfig


@torch.no_grad()
def validate(network: SiamAnno, samples: Samples, config: TrainConfig, device: str, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Measure on held-out samples, in the crop: mean IoU of contour, mask and of the one the quality prefers, and its rank correlation.

    No held-out samples give no numbers.
    """
    dtype = dtype or dtype_of(config.precision, device)
    shape, indices = network.config, samples.validation
    if len(indices) == 0:
        return {}
    if len(indices) > config.validation_samples:
        indices = np.random.default_rng(0).permutation(indices)[: config.validation_samples]
    found, estimated = [], []
    for start in range(0, len(indices), config.batch):
        made = [
            samples.sample(int(i), shape.crop_side, shape.search_scale, shape.vertices, None, config.augment)
            for i in indices[start : start + config.batch]
        ]
        output, targets = forward(network, shape, stacked(made), device, dtype)
        found.append(true_iou(output, targets).cpu())
        estimated.append(output.quality_logits.float().cpu())
    iou, quality = torch.cat(found).numpy(), torch.cat(estimated).numpy()
    better = iou[np.arange(len(iou)), quality.argmax(1)]
    return {
        "val_contour": float(iou[:, 0].mean()),
        "val_mask": float(iou[:, 1].mean()),
        "val_chosen": float(better.mean()),
        "val_oracle": float(iou.max(1).mean()),
        "val_rank": spearman(quality.max(1), better),
    }
