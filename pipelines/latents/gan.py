"""Formulas of adversarial training. Logits are the mean over a discriminator's patches, per sample [B].

The discriminator reduces :func:`discriminator_loss`, the autoencoder :func:`generator_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Game = Literal["hinge", "relativistic"]


def discriminator_loss(real: Tensor, fake: Tensor, game: Game) -> Tensor:
    """Hinge: relu(1 - real) + relu(1 + fake). Relativistic (arXiv:1807.00734, paired): softplus(fake - real)."""
    if game == "hinge":
        return functional.relu(1.0 - real) + functional.relu(1.0 + fake)
    return functional.softplus(fake - real)


def generator_loss(fake: Tensor, real: Tensor | None, game: Game) -> Tensor:
    """Hinge: -fake; ``real`` is not asked for. Relativistic: softplus(real - fake)."""
    if game == "hinge":
        return -fake
    assert real is not None
    return functional.softplus(real - fake)


def r1(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Squared norm of the gradient of each sample's logit with respect to the sample, arXiv:1801.04406; differentiable.

    Times gamma / 2 it is the penalty; asked for at every k-th step only, times k as well.
    """
    pixels = real.detach().float().requires_grad_(True)
    with torch.autocast(pixels.device.type, enabled=False):
        logits = critic(pixels)
        (gradient,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


class LeCam:
    """Regularisation for little data, arXiv:2104.03310: logits stay near running means of the other side's.

    relu(real - mean of fake)^2 + relu(mean of real - fake)^2. The running means are memory; a resume needs them.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.real = self.fake = 0.0

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Per sample [B], against the means as they are."""
        return functional.relu(real - self.fake).square() + functional.relu(self.real - fake).square()

    def remember(self, real: Tensor, fake: Tensor) -> None:
        """Move the running means."""
        self.real += (1.0 - self.decay) * (float(real.detach().mean()) - self.real)
        self.fake += (1.0 - self.decay) * (float(fake.detach().mean()) - self.fake)

    def state_dict(self) -> dict[str, float]:
        """The two means."""
        return {"real": self.real, "fake": self.fake}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.real, self.fake = state["real"], state["fake"]


def instance_noise(pixels: Tensor, std: float, decay: float, step: int) -> Tensor:
    """Pixels with Gaussian noise of deviation ``std * decay ** step``."""
    return pixels + std * decay**step * torch.randn_like(pixels)


def balance(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter, most: float) -> Tensor:
    """What makes the adversarial gradient in the decoder's last layer as large as that of the reconstruction.

    |d reconstruction / d last| / |d adversarial / d last|, from 0 to ``most``, without gradient. A ratio of norms is
    never negative, whatever the signs of the losses.

    Args:
        reconstruction, adversarial: scalars.
        last: weights of the last layer.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (wanted.norm() / given.norm().clamp_min(1e-12)).clamp(0.0, most).detach()
