"""Let a trained network learn what to make of a user's corrections, and keep it where it helps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from autopoly.network.correction import CorrectionPass
from autopoly.network.siamanno import SiamAnno
from autopoly.training.corrections import LOOKS, CorrectionConfig, fit, measure
from autopoly.training.samples import Samples

Say = Callable[[str], None]
SAID_EVERY = 50
"""Steps."""
COARSER = 0.75, 0.6
"""Crops of this size, up to this share of the steps: the change is learned at the side the network answers at, and faster below."""


def learned(
    network: SiamAnno, samples: Samples, config: CorrectionConfig, seed: int, loaders: int, device: str, say: Say
) -> tuple[SiamAnno, dict[str, Any]]:
    """Give ``network`` with a correction pass that has learned from ``samples``, and how it did so, for the checkpoint's description.

    Where held-out samples say that it is no better, the network comes back as it is, with nothing to describe.
    """
    better = copy.deepcopy(network)
    better.config = replace(network.config, correction_width=config.width)
    better.correction = CorrectionPass(better.config)
    side = network.config.crop_side
    sides = ((0.0, max(32, round(COARSER[0] * side / 32) * 32)), (COARSER[1], side))

    def tell(step: int, before: float, after: float) -> None:
        if step % SAID_EVERY == 0 or step == config.steps:
            say(f"corrections: step {step:,} of {config.steps:,}, IoU {before:.3f} becomes {after:.3f}")

    fit(better, samples, config, sides, seed, loaders, device, tell)
    about: dict[str, Any] = {**asdict(config), "sides": sides, "seed": seed}
    if not len(samples.validation):
        return better, about
    found = measure(better, samples, device, config.precision)
    helps = bool(found[-1] > found[0])
    say(
        f"corrections: held out, mean IoU after {', '.join(map(str, LOOKS))} of them: {', '.join(f'{one:.3f}' for one in found)}: "
        f"{'kept' if helps else 'left out'}"
    )
    told = dict(zip(map(str, LOOKS), found.round(4).tolist(), strict=True))
    return (better, about | {"held_out_iou_after": told}) if helps else (network, {})
