"""The edge pass: move an outline onto the edge that the picture shows, at a finer resolution than the network's.

Not in the paper. B strips, T rows across the outline (inside first), N places along it: see autopoly/strips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EdgePass(nn.Module):
    """Tell for every point of a strip whether it lies inside the object: convolutions, circular along the outline.

    Dilated, so that every point sees both ends of its column: what lies there is surely inside, and surely outside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, width, 3)
        self.dilations = (1, 2, 4, 8)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, dilation=dilation) for dilation in self.dilations)
        self.out = nn.Conv2d(width, 1, 1)
        self.requires_grad_(False)  # until its own training

    def forward(self, strips: Tensor) -> Tensor:
        """Map strips (B, 4, T, N) uint8 to the logits of "inside" (B, T, N)."""
        x = strips.float() / 127.5 - 1
        # The contrast of a strip, not its light, shows an edge.
        colours = x[:, :3] - x[:, :3].mean((2, 3), keepdim=True)
        x = F.relu(self.enter(_wrapped(torch.cat([colours, x[:, 3:]], dim=1), 1)))
        for layer, dilation in zip(self.layers, self.dilations, strict=True):
            x = x + F.relu(layer(_wrapped(x, dilation)))
        logits: Tensor = self.out(x).float().squeeze(1)
        return logits


def offset(inside: Tensor) -> Tensor:
    """Give how far out the outline lies, (B, N) in rows of the strip from its middle, for the share of each row (B, T, N) that is inside.

    With an edge at x, the rows before x count one and those behind it nothing; probabilities between make it a sub-row estimate.
    """
    return inside.sum(1) - inside.shape[1] / 2


def _wrapped(x: Tensor, reach: int) -> Tensor:
    x = torch.cat([x[..., -reach:], x, x[..., :reach]], dim=-1)
    return F.pad(x, (0, 0, reach, reach))
