"""The loop of two networks against a bare GAN loop, and a long clip decoded in pieces against one that is short."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paired import Figure, Turns, ratios
from benchmarks.training_loop import BenchParams, training
from pipelines.latents.loss_params import Adversarial, Losses
from pipelines.latents.objectives import Autoencoding
from pipelines.models.discriminator import PatchDiscriminator
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.models.streaming import decoded_in_pieces
from pipelines.training.loop import train
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

STEPS, BATCH, ROUNDS, WEIGHT = 101, 8, 5, 0.1
TERMS = Losses.model_validate(
    {**dict.fromkeys(Losses.model_fields), "reconstruction": {"kind": "mse", "weight": 1.0, "warmup": None}}
)
GAME = Adversarial.model_validate(
    {**dict.fromkeys(Adversarial.model_fields), "weight": WEIGHT, "warmup": None, "game": "hinge"}
)


def networks() -> tuple[StackedAutoencoder, PatchDiscriminator]:
    """Those of the demo."""
    torch.manual_seed(0)
    return StackedAutoencoder(4, 8, 128, 16, 2), PatchDiscriminator(3, 16, 3, None)


class Groups:
    """Ready frame groups, so that only the loop differs."""

    def __init__(self) -> None:
        self.video = torch.rand(BATCH, 3, 4, 64, 64) * 2 - 1

    def keys(self, step: int) -> list[str]:
        """Keys of the batch."""
        return [str(index) for index in range(BATCH)]

    def read(self, step: int, start: int, stop: int) -> Batch:
        """The same tensors at every step."""
        return {"video": self.video[start:stop]}


class Stepwise(Autoencoding):
    """The stage's objective; a step begins where the autoencoder has its turn."""

    turns: Turns

    def losses(self, batch: Batch, step: int, network: str) -> dict[str, LossOutput]:
        """As the stage asks."""
        if network == "autoencoder":
            self.turns.step()
        return super().losses(batch, step, network)


def ours(turns: Turns) -> None:
    """The project's loop with both networks in a new folder."""
    coder, critic = networks()
    objective = Stepwise(coder, TERMS, GAME, critic)
    objective.turns = turns
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        section = BenchParams(training=training(STEPS, BATCH))
        run = Run.open(section, {}, out=folder / "out", metrics=folder / "m.json", plots=folder / "plots")
        train(objective, Groups(), run)


def bare() -> Iterator[None]:
    """The same game by hand: forward, backward, clip and step of either network, in turn."""
    coder, critic = networks()
    optimizers = [
        torch.optim.AdamW(one.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True)
        for one in (coder, critic)
    ]
    video = Groups().video

    def update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    while True:
        made = coder(video.flatten(1, 2))[0].unflatten(1, (3, -1))
        critic.requires_grad_(False)
        update(coder, optimizers[0], (made - video).square().mean() - WEIGHT * critic(made).mean())
        critic.requires_grad_(True)
        real, fake = critic(video), critic(made.detach())
        update(critic, optimizers[1], (functional.relu(1 - real) + functional.relu(1 + fake)).mean())
        del made, real, fake
        yield


def largest(autoencoder: StackedAutoencoder, latents: Tensor) -> int:
    """Most numbers that a layer gives, or a piece has, while the latents are decoded in pieces."""
    seen = [0]

    def hold(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(output.numel())

    hooks = [module.register_forward_hook(hold) for module in autoencoder.modules()]
    for piece in decoded_in_pieces(autoencoder, latents):
        seen.append(piece.numel())
    for hook in hooks:
        hook.remove()
    return max(seen)


def decoding() -> Iterator[Figure]:
    """The largest tensor of a clip twice as long, and the time of a 10 s clip in pieces against the whole."""
    autoencoder = networks()[0].eval().requires_grad_(False)
    ten, hundred = torch.randn(1, 16, 61, 8, 8), torch.randn(1, 16, 601, 8, 8)
    grown = largest(autoencoder, hundred) / largest(autoencoder, hundred[:, :, :301])
    yield Figure("memory of decoding", "601 latent frames", "301", "x the largest tensor", (grown,), "target 1")
    found = ratios(lambda: list(decoded_in_pieces(autoencoder, ten)), lambda: autoencoder.decode(ten), ROUNDS)
    yield Figure("decoding in pieces", "a 10 s clip in pieces", "the whole", "x processor time", found, "stated")


def measure() -> Iterator[Figure]:
    """The two-network loop, then decoding."""
    torch.set_num_threads(1)
    turns = Turns(bare())
    ours(turns)
    words, peer = f"{STEPS} steps of both networks, rows and reports", "a bare GAN loop, step by step in turn"
    yield Figure("loop of two networks", words, peer, "x processor time", turns.ratios(ROUNDS), "target at most 1.03")
    yield from decoding()
