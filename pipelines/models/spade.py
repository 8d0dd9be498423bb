"""SPADE: normalisation whose scale and shift are convolutions of a map that says what is where, arXiv:1903.07291.

spade(x, context) = norm(x) * (1 + gamma(context)) + beta(context)
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

MOST_GROUPS = 32


class Spade(nn.Module):
    """Group norm without weights of its own; context resized (bilinear), 3 x 3 to ``hidden``, ReLU, 3 x 3 to both.

    Args:
        width: channels of x.
        context: channels of the context.
        hidden: channels between.
    """

    def __init__(self, width: int, context: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(MOST_GROUPS, width), width, affine=False)
        self.shared = nn.Conv2d(context, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, width, 3, padding=1)
        self.beta = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [N, W, H, W] and a context [N, C, h, w] of any size to the shape of x."""
        if context.shape[-2:] != x.shape[-2:]:
            context = functional.interpolate(context, x.shape[-2:], mode="bilinear", align_corners=False)
        hidden = functional.relu(self.shared(context))
        return self.norm(x) * (1.0 + self.gamma(hidden)) + self.beta(hidden)


class SpadeBlock(nn.Module):
    """x + C(relu(spade(x))); the last convolution starts at zero, so the block starts as the identity."""

    def __init__(self, width: int, context: int, hidden: int) -> None:
        super().__init__()
        self.spade = Spade(width, context, hidden)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[N, W, H, W] to the same, told by the context."""
        return x + self.convolution(functional.relu(self.spade(x, context)))
