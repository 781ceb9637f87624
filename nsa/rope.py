"""Rotary position embedding (arXiv 2104.09864), halves rotated against each other as in GPT-NeoX.

Not here: any table of a fixed length. Angles are computed from the positions of the batch at hand, because in
packed sequences positions start anew at each document.

Shapes: B batch, S sequence, H heads, K head dim, F = K / 2 frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The angles of one set of positions; shared by every layer."""

    cos_B1SF: Tensor
    sin_B1SF: Tensor

    @classmethod
    def of(cls, position_BS: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
        """Angles for `position_BS`; computed in float32 at least, whatever the model's dtype."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        exponent_F = torch.arange(0, head_dim, 2, device=position_BS.device, dtype=wide) / head_dim
        angle_B1SF = position_BS[:, None, :, None].to(wide) * theta**-exponent_F
        return cls(cos_B1SF=angle_B1SF.cos(), sin_B1SF=angle_B1SF.sin())

    def turn(self, x_BHSK: Tensor) -> Tensor:
        """Rotate `x_BHSK`; the result keeps its dtype."""
        first, second = x_BHSK.chunk(2, dim=-1)
        cos, sin = self.cos_B1SF, self.sin_B1SF
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BHSK.dtype)
