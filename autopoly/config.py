"""Every knob, with its unit and the paper's value where the paper gives one. A component receives only its own dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Shape of the network. Sizes in crop px unless said otherwise."""

    backbone: str = "tf_efficientnet_lite0"
    search_scale: float = 1.4
    """Side of the search region over the side of the box, s in (1, 2) (paper, III-B)."""
    crop_side: int = 224
    """S: side of the square crop the network sees by default; any multiple of 32 runs."""
    vertices: int = 128
    """K: vertices of a contour."""
    target_grid: int = 10
    """Side of the fixed grid on which the target's features are sampled from the box."""
    correlation: bool = True
    """Whether the pixel-wise correlation of eq. 1 feeds M_0 (off only for ablations)."""
    width16: int = 192
    """Channels of M_0 at stride 16."""
    blocks16: int = 3
    """Attention blocks at stride 16; the paper has none."""
    width8: int = 96
    """Channels of the fused map at stride 8."""
    width4: int = 64
    """Channels of the fused map at stride 4."""
    detail: int = 64
    """Channels of the trained branch that sees the crop itself at stride 4, where the backbone is frozen; 0 = none (paper)."""
    head_width: int = 128
    """Channels of the circular convolutions."""
    head_radius: int = 4
    """R of eq. 3: a kernel has 2R + 1 taps."""
    head_dilations: tuple[int, ...] = (1, 2, 4, 4)
    steps: tuple[float, ...] = (0.5, 0.2, 0.1)
    """Largest offset of each refinement, in crop sides (times tanh)."""
    edge_width: int = 0
    """Channels of the edge pass, which moves a finished outline onto the edge in the picture; 0 = none (paper)."""
    correction_width: int = 0
    """Channels of the correction pass, which draws the mask again after a user's corrections; 0 = none (paper)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningConfig:
    """How the network learns, as far as a user may choose it. The paper is silent on all of it."""

    minutes: float | None = None
    """Training time; None = by steps or epochs. Time spent before a resume counts."""
    batch: int = 32
    """Samples of a step, of all processes together."""
    rate: float = 1e-3
    """Peak learning rate of new layers."""
    backbone_rate: float = 0.3
    """Learning rate of the backbone, relative."""
    decay: float = 0.05
    warmup: int = 200
    """Steps of linear warm-up; a tenth of the schedule where that is shorter."""
    clip: float = 5.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Memory of the averaged weights, per step."""
    sides: tuple[tuple[float, int], ...] = ((0.0, 160), (0.72, 224))
    """Crop side from a share of the schedule on."""
    unfreeze: float = 1.0
    """Share of the schedule after which the whole backbone is trained."""
    precision: str = "auto"
    """fp32, bf16, or fp16 with a scaled loss (CUDA alone); auto takes the fastest that the device has."""
    seed: int = 0
    validations: int = 10
    """How often held-out samples are measured, in equal shares of the schedule: by the clock, two runs would differ."""
    validation_samples: int = 512
