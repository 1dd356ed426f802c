"""The contour head: circular convolutions over the vertices (eq. 3), refined three times. B batch, K contour vertices, C channels, S crop
side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopoly.config import NetworkConfig

# Where the strip across the contour is sampled, in crop sides, along the outward normal.
STRIP = (-0.12, -0.07, -0.04, -0.018, 0.0, 0.018, 0.04, 0.07, 0.12)


class CircularConv(nn.Module):
    """Convolve around a closed contour (eq. 3): ``(f * k')_p = sum over r in [-R, R] of f_{p + dilation r} k'_r``, indices modulo K."""

    def __init__(self, channels: int, out: int, radius: int, dilation: int) -> None:
        super().__init__()
        self.reach, self.dilation = radius * dilation, dilation
        # A 2-D convolution of height one: the CPU's fast path.
        self.conv = nn.Conv2d(channels, out, (1, 2 * radius + 1), dilation=(1, dilation))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, 1, K) to (B, out, 1, K)."""
        wrapped = torch.cat([features[..., -self.reach :], features, features[..., : self.reach]], dim=-1)
        out: Tensor = self.conv(wrapped)
        return out


class Refinement(nn.Module):
    """Predict one offset per vertex, at most ``step`` crop sides: cascaded dilated circular convolutions, four 1x1 convolutions, tanh."""

    def __init__(self, config: NetworkConfig, step: float) -> None:
        super().__init__()
        self.step = step
        width = config.head_width
        channels = config.width4 + 2 * len(STRIP) + 3
        self.enter = CircularConv(channels, width, config.head_radius, 1)
        self.cascade = nn.ModuleList(CircularConv(width, width, config.head_radius, dilation) for dilation in config.head_dilations)
        self.out = nn.Sequential(
            nn.Conv2d(2 * width, 256, 1),
            nn.ReLU(),
            nn.Conv2d(256, 128, 1),
            nn.ReLU(),
            nn.Conv2d(128, 64, 1),
            nn.ReLU(),
            nn.Conv2d(64, 2, 1),
        )
        last = self.out[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, std=0.001)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Map vertex features (B, C, 1, K) to offsets (B, K, 2) in crop sides."""
        x = F.relu(self.enter(features))
        for convolution in self.cascade:
            x = x + F.relu(convolution(x))
        everywhere = x.amax(dim=-1, keepdim=True).expand_as(x)
        offsets = torch.tanh(self.out(torch.cat([x, everywhere], dim=1)).float()) * self.step  # (B, 2, 1, K)
        return offsets.squeeze(2).transpose(1, 2)


class ContourHead(nn.Module):
    """Move an initial contour onto the object, one refinement after the other, the gradient stopped between them.

    From the second refinement on, the offset is multiplied by a modulation in (0, 1) read at the vertex (attentive deformation, paper
    III-C).
    """

    strip: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.refinements = nn.ModuleList(Refinement(config, step) for step in config.steps)
        self.modulate = nn.Conv2d(config.width4 + 1, 1, 3, padding=1)
        self.register_buffer("strip", torch.tensor(STRIP), persistent=False)  # made anew on a GPU, it would wait for all before it

    def forward(self, fused: Tensor, mask: Tensor, boundary: Tensor, initial: Tensor, fixed: Tensor | None) -> list[Tensor]:
        """Give the contour after each refinement.

        ``fused`` (B, C, H, W), ``mask`` and ``boundary`` logits (B, 1, H, W), ``initial`` (B, K, 2) in crop sides, ``fixed`` (B, K) bool:
        vertices that a user holds and that do not move. The result is a list of (B, K, 2), in crop sides.
        """
        modulation = torch.sigmoid(self.modulate(torch.cat([fused, boundary], dim=1)))
        fused = fused.float()  # once: bf16 bilinear weights are too coarse
        hints = torch.tanh(torch.cat([mask, boundary], dim=1).detach().float() / 4)
        held = torch.zeros(initial.shape[:2], dtype=torch.bool, device=initial.device) if fixed is None else fixed
        contour, contours = initial, []
        for number, refinement in enumerate(self.refinements):
            contour = contour.detach()
            features = vertex_features(fused, hints, contour, held, self.strip)
            offsets = refinement(features)
            if number > 0:
                offsets = offsets * sample(modulation, contour).transpose(1, 2)
            contour = contour + offsets * (~held).unsqueeze(-1)
            contours.append(contour)
        return contours


def vertex_features(fused: Tensor, hints: Tensor, contour: Tensor, held: Tensor, strip: Tensor) -> Tensor:
    """Give each vertex what it sees (B, C, 1, K): the map, the hints at places across the contour (``strip``, crop sides outward), relative
    coordinates, whether it is held.

    Coordinates are made relative as in the paper, III-C: minus the smallest over all vertices, divided by the contour's width and height.
    """
    low, high = contour.amin(dim=1, keepdim=True), contour.amax(dim=1, keepdim=True)
    relative = (contour - low) / (high - low).clamp(min=1e-3)
    tangent = torch.roll(contour, -1, dims=1) - torch.roll(contour, 1, dims=1)
    normal = F.normalize(torch.stack([tangent[..., 1], -tangent[..., 0]], dim=-1), dim=-1, eps=1e-6)  # outward on a clockwise contour
    across = contour.unsqueeze(2) + normal.unsqueeze(2) * strip.view(1, 1, -1, 1)  # (B, K, strip, 2)
    batch, count = contour.shape[:2]
    hinted = sample(hints, across.flatten(1, 2)).view(batch, -1, count, len(strip))  # (B, 2, K, strip)
    hinted = hinted.transpose(2, 3).reshape(batch, -1, count)
    parts = [sample(fused, contour).float(), hinted, relative.transpose(1, 2) - 0.5, held.unsqueeze(1).to(hinted.dtype)]
    return torch.cat(parts, dim=1).unsqueeze(2)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps (B, C, H, W) bilinearly at points (B, P, 2) in crop sides; (B, C, P), float32 (bf16 bilinear weights are too coarse)."""
    where = points.float().unsqueeze(1) * 2 - 1  # (B, 1, P, 2)
    return F.grid_sample(maps.float(), where, mode="bilinear", padding_mode="border", align_corners=False).squeeze(2)
