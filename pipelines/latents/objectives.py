"""What an autoencoder minimises: a weighted sum of terms, and a game against a discriminator where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.latents import gan, losses
from pipelines.latents.loss_params import Adversarial, Losses, Term, WarmUp
from pipelines.models.autoencoder import Trainable
from pipelines.models.halves import last_layer
from pipelines.params import ParamsError
from pipelines.training.objective import Batch, LossOutput

SEED_NAMES = {"reconstruction": "loss_recon", "kl": "loss_kl", "adversarial": "loss_gen", "contrast": "contrast_loss"}
"""Terms that seed D names, and how."""


def grown(warmup: WarmUp | None, step: int) -> float:
    """Share of its value that a weight has at update ``step`` (from 0), from 0 to 1."""
    if warmup is None:
        return 1.0
    if step < warmup.start:
        return 0.0
    share = min(1.0, (step - warmup.start) / warmup.steps) if warmup.steps else 1.0
    match warmup.shape:
        case "cosine":
            return 0.5 * (1.0 - math.cos(math.pi * share))
        case "sigmoid":
            return 1.0 / (1.0 + math.exp(-12.0 * (share - 0.5)))
        case "exponential":
            return math.expm1(5.0 * share) / math.expm1(5.0)
        case _:
            return share


def check_losses(section: str, terms: Losses, adversarial: Adversarial | None, channels: int) -> None:
    """Check what one block cannot say of another.

    Raises:
        ParamsError: nothing is asked for, or a balance without a reconstruction, or a prefix longer than the latents.
    """
    if not terms.shown() and adversarial is None:
        raise ParamsError(f"{section}.losses: nothing compares the reconstruction with its clip; state reconstruction.")
    if adversarial is not None and adversarial.balance is not None and terms.reconstruction is None:
        raise ParamsError(
            f"{section}.adversarial.balance: there is no losses.reconstruction to balance with; set balance: null."
        )
    if terms.channel_prefix is not None and terms.channel_prefix.least > channels:
        raise ParamsError(
            f"{section}.losses.channel_prefix.least: {terms.channel_prefix.least} of {channels} latent channels."
        )


class Autoencoding:
    """Reconstruction of frame groups by the terms of a block; the networks may be wrapped for several processes.

    Args:
        autoencoder: ours, or one of diffusers that is trained here.
        terms: which losses.
        adversarial, discriminator: the game and its second network; both or neither.
        perceptual: distance in features, where ``terms`` has that block.
    """

    reads: tuple[str, ...] = ("video",)

    def __init__(
        self,
        autoencoder: Trainable,
        terms: Losses,
        adversarial: Adversarial | None = None,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
    ) -> None:
        self.autoencoder, self.terms, self.adversarial = autoencoder, terms, adversarial
        self.last_layer = last_layer(autoencoder)
        self.trained: tuple[str, ...] = ("autoencoder",) if discriminator is None else ("autoencoder", "discriminator")
        if discriminator is not None:
            self.discriminator = discriminator
            self.conditioned = discriminator.config["condition"] is not None  # type: ignore[index]
        self.perceptual = perceptual
        lecam = adversarial.lecam if adversarial is not None else None
        self.lecam = gan.LeCam(lecam.decay) if lecam is not None else None
        self.made: tuple[Batch, Tensor, Tensor | None] | None = None

    # ---- memory ----

    def state_dict(self) -> dict[str, Any]:
        """LeCam's running means."""
        return {} if self.lecam is None else self.lecam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        if self.lecam is not None:
            self.lecam.load_state_dict(state)

    # ---- losses ----

    def losses(self, batch: Batch, step: int, network: str) -> dict[str, LossOutput]:
        """Per group [B]."""
        return {network: self._critic(batch, step) if network == "discriminator" else self._coder(batch, step)}

    def _through(self, codes: Tensor) -> Tensor:
        """The codes as the decoder is told them."""
        if self.terms.channel_prefix is not None:
            codes = losses.keep_prefix(codes, self.terms.channel_prefix.share, self.terms.channel_prefix.least)
        if self.terms.masked_latents is not None:
            codes = losses.hide_places(codes, self.terms.masked_latents.share, self.terms.masked_latents.ratio)
        return codes

    def _reconstructed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """(reconstruction [B, 3, F, H, W], codes, log variance)."""
        video = batch["video"]
        groups = video.flatten(1, 2)  # B 3 F H W -> B 3F H W, the layout of stack()
        made, codes, logvar = self.autoencoder(groups, self._through, self.terms.kl is not None)
        return made.float().unflatten(1, (3, -1)), codes.float(), None if logvar is None else logvar.float()

    def _compared(self, made: Tensor, video: Tensor) -> dict[str, tuple[Term, Callable[[], Tensor]]]:
        """Terms that compare a reconstruction with its clip."""
        terms, found = self.terms, {}
        if (block := terms.reconstruction) is not None:
            softness = getattr(block, "softness", 0.0)
            found["reconstruction"] = (
                block,
                lambda: losses.per_sample(losses.distance(made, video, block.kind, softness)),
            )
        if (sharp := terms.frequency) is not None:
            found["frequency"] = (sharp, lambda: losses.frequency(made, video, sharp.high))
        if terms.contrast is not None:
            found["contrast"] = (terms.contrast, lambda: losses.contrast(made, video))
        if terms.color is not None:
            found["color"] = (terms.color, lambda: losses.color_statistics(made, video))
        if (bins := terms.histogram) is not None:
            found["histogram"] = (bins, lambda: losses.histogram(made, video, bins.bins))
        if terms.temporal is not None:
            found["temporal"] = (terms.temporal, lambda: losses.temporal(made, video))
        if terms.perceptual is not None:
            assert self.perceptual is not None
            features = self.perceptual
            found["perceptual"] = (terms.perceptual, lambda: features(made, video).float())
        return found

    def _coder(self, batch: Batch, step: int) -> LossOutput:
        video = batch["video"]
        made, codes, logvar = self._reconstructed(batch)
        logged: dict[str, Tensor] = {}
        monitors: dict[str, Tensor] = {}
        total = made.new_zeros(len(video))

        def add(name: str, value: Tensor, weight: float | Tensor) -> None:
            nonlocal total
            total = total + weight * value
            logged[name] = value.detach().mean()
            logged[f"weight/{name}"] = torch.as_tensor(weight, dtype=torch.float32, device=value.device).detach()
            if name in SEED_NAMES:
                monitors[SEED_NAMES[name]] = logged[name]

        for name, (term, value) in self._compared(made, video).items():
            add(name, value(), term.weight * grown(term.warmup, step))
        is_mse = getattr(self.terms.reconstruction, "kind", None) == "mse"
        error = logged["reconstruction"] if is_mse else (made.detach() - video).square().mean()
        logged["train/psnr"] = 10 * torch.log10(4 / error)
        if (block := self.terms.kl) is not None:
            assert logvar is not None
            weight = block.weight * grown(block.warmup, step)
            add("kl", losses.kl(codes, logvar, block.free_bits, block.reduce == "mean"), weight)
            each = weight / codes[0].numel() if block.reduce == "mean" else weight
            logged["weight/kl_per_element"] = torch.tensor(each, device=made.device)
        if self.adversarial is not None:
            self._play(self.adversarial, made, codes, batch, step, total, add)
            self.made = (batch, made.detach(), codes.detach())
        return LossOutput(total, metrics=logged, monitors=monitors)

    # ---- the game ----

    def _judged(self, video: Tensor, codes: Tensor | None, step: int) -> Tensor:
        noise = self.adversarial.instance_noise if self.adversarial is not None else None
        if noise is not None:
            video = gan.instance_noise(video, noise.std, noise.decay, step)
        return self._plainly_judged(video, codes).float()

    def _plainly_judged(self, video: Tensor, codes: Tensor | None) -> Tensor:
        if not self.conditioned:
            return self.discriminator(video)
        assert codes is not None
        return self.discriminator(video, codes.detach().flatten(2).mean(dim=2))

    def _play(
        self,
        block: Adversarial,
        made: Tensor,
        codes: Tensor,
        batch: Batch,
        step: int,
        compared: Tensor,
        add: Callable[[str, Tensor, float | Tensor], None],
    ) -> None:
        weight: float | Tensor = block.weight * grown(block.warmup, step)
        if not weight:  # the discriminator trains alone
            return
        fake = self._judged(made, codes, step)
        real = self._judged(batch["video"], codes, step) if block.game == "relativistic" else None
        loss = gan.generator_loss(fake, real, block.game)
        if block.balance is not None:
            weight = weight * gan.balance(compared.mean(), loss.mean(), self.last_layer, block.balance.most)
        add("adversarial", loss, weight)

    def _made(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The autoencoder's answer, without gradient: that of its own turn, where it had one with this batch."""
        if self.made is not None and self.made[0] is batch:
            _, made, codes = self.made
        else:
            with torch.no_grad():
                made, codes, _ = self._reconstructed(batch)
        self.made = None
        assert codes is not None
        return made, codes

    def _critic(self, batch: Batch, step: int) -> LossOutput:
        block = self.adversarial
        assert block is not None
        made, codes = self._made(batch)
        video = batch["video"]
        real, fake = self._judged(video, codes, step), self._judged(made, codes, step)
        loss = gan.discriminator_loss(real, fake, block.game)
        logged = {"discriminator/real": real.detach().mean(), "discriminator/fake": fake.detach().mean()}
        monitors = {"loss_disc": loss.detach().mean()}
        if self.lecam is not None and block.lecam is not None:
            penalty = self.lecam.penalty(real, fake)
            self.lecam.remember(real, fake)
            loss, logged["lecam"] = loss + block.lecam.weight * penalty, penalty.detach().mean()
        if block.r1 is not None and step % block.r1.every == 0:
            penalty = gan.r1(lambda pixels: self._plainly_judged(pixels, codes), video)
            loss = loss + 0.5 * block.r1.gamma * block.r1.every * penalty
            logged["r1"] = penalty.detach().mean()
        return LossOutput(loss, metrics=logged, monitors=monitors)
