"""A reader of actions: what was held, and who is seen, inferred from pairs of neighbouring latent frames.

Trained on real training clips; on rollouts it says whether what was asked for can be seen. Where the data names factors
of identity (columns ``factor_shape``, ``factor_color``), it reads these too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.data.actions import aligned, kinds_of
from pipelines.data.contract import ActionFacts
from pipelines.data.shards import Shards

MOST_CLIPS, BATCH, WIDTH, SEED = 4096, 128, 64, 4
IDENTITY = ("factor_shape", "factor_color")
FILE, TRAINED = "action_reader.safetensors", "trained"


@dataclass(frozen=True)
class Examples:
    """Clips as a reader learns and is judged by them: latents [N, C, T, H, W], rows [N, T, stride, A], factors."""

    latents: Tensor
    held: Tensor
    factors: Mapping[str, Tensor]
    words: Mapping[str, list[str]]

    @classmethod
    def of(cls, shards: Shards, rows: np.ndarray, words: Mapping[str, list[str]] | None = None) -> Examples:
        """Some rows of the index; ``words``: the known values of each factor, where others decided them."""
        latents = torch.from_numpy(shards.load(rows, "latents").astype(np.float32))
        actions = torch.from_numpy(shards.load(rows, "actions").astype(np.float32))
        held = aligned(actions, shards.manifest.autoencoder.temporal_stride)
        table = shards.index.iloc[rows]
        known = [name for name in IDENTITY if name in table and table[name].notna().all()]
        values = {name: sorted(set(table[name].astype(str))) for name in known} if words is None else dict(words)
        numbers = {
            name: torch.tensor([found.index(one) if one in found else -1 for one in table[name].astype(str)])
            for name, found in values.items()
        }
        return cls(latents, held, numbers, values)


class ActionReader(nn.Module):
    """Latents of two neighbouring frames [N, 2 C, H, W] to features, actions of the later one, and factors."""

    def __init__(self, channels: int, facts: ActionFacts, stride: int, words: Mapping[str, list[str]]) -> None:
        super().__init__()
        self.keys, self.axes = kinds_of(facts)
        self.rows, self.names = stride, list(words)
        self.trunk = nn.Sequential(
            nn.Conv2d(2 * channels, WIDTH, 3, padding=1), nn.GroupNorm(8, WIDTH), nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(8, WIDTH), nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.GroupNorm(8, WIDTH), nn.SiLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * WIDTH, 2 * WIDTH), nn.SiLU(),
        )  # fmt: skip
        self.actions = nn.Linear(2 * WIDTH, stride * (len(self.keys) + len(self.axes)))
        self.factors = nn.ModuleList([nn.Linear(2 * WIDTH, len(words[name])) for name in self.names])

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Features [N, F]; keys (as logits) and axes [N, stride, keys + axes]; logits of each factor."""
        features = self.trunk(pairs)
        return features, self.actions(features).unflatten(1, (self.rows, -1)), [head(features) for head in self.factors]


def pairs_of(latents: Tensor) -> Tensor:
    """[B, C, T, H, W] to the pairs of neighbours [B, T - 1, 2 C, H, W]."""
    return torch.cat([latents[:, :, :-1], latents[:, :, 1:]], dim=1).transpose(1, 2)


def loss_of(reader: ActionReader, pairs: Tensor, held: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of keys and factors, squared error of axes."""
    _, read, words = reader(pairs)
    count, loss = len(reader.keys), pairs.new_zeros(())
    if count:
        loss = loss + functional.binary_cross_entropy_with_logits(read[..., :count], held[..., reader.keys].clamp(0, 1))
    if reader.axes:
        loss = loss + functional.mse_loss(read[..., count:], held[..., reader.axes])
    for name, logits in zip(reader.names, words, strict=True):
        loss = loss + functional.cross_entropy(logits, factors[name])
    return loss


@dataclass(frozen=True)
class Kept:
    """A reader beside the network that it judged: it is a function of latents and of its own updates alone.

    Attributes:
        latents: digest of the latents that readers are trained on.
        start: the checkpoint that this training goes on from; its reader is taken where it was trained on these.
    """

    latents: str
    start: Path | None

    def take(self, reader: ActionReader, steps: int) -> bool:
        """Give a new reader the weights of the start's; false where there is none, of these latents and updates."""
        path = None if self.start is None else self.start / FILE
        if path is None or not path.is_file():
            return False
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get(TRAINED) == self._trained(steps)
        found, own = load_file(path) if same else {}, reader.state_dict()
        if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in own.items()}:
            return False
        reader.load_state_dict(found)
        return True

    def _trained(self, steps: int) -> str:
        return f"{steps} updates, latents {self.latents}"

    def save(self, reader: ActionReader, steps: int, folder: Path) -> None:
        """Write it beside the network."""
        weights = {name: value.cpu().contiguous() for name, value in reader.state_dict().items()}
        save_file(weights, folder / FILE, {TRAINED: self._trained(steps)})


def trained_reader(
    shards: Shards, steps: int, device: torch.device, kept: Kept | None = None
) -> tuple[ActionReader, Examples]:
    """A reader of the training split's pairs, and its examples; a function of the data and the number of steps.

    It is trained and asked in float32 whatever the world model computes in: readings must not differ by that.
    """
    facts = shards.manifest.actions
    assert facts is not None
    rows = shards.rows("train")
    known = Examples.of(shards, rows[:: max(1, -(-len(rows) // MOST_CLIPS))])
    with torch.random.fork_rng(), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        torch.manual_seed(SEED)
        stride = shards.manifest.autoencoder.temporal_stride
        reader = ActionReader(known.latents.shape[1], facts, stride, known.words).to(device)
        if kept is None or not kept.take(reader, steps):
            _train(reader, known, steps, device)
    return reader.eval().requires_grad_(False), known


def _train(reader: ActionReader, known: Examples, steps: int, device: torch.device) -> None:
    pairs, held = pairs_of(known.latents), known.held[:, 1:]
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        clips = torch.randint(len(pairs), (BATCH,))
        frames = torch.randint(pairs.shape[1], (BATCH,))
        factors = {name: numbers[clips].to(device) for name, numbers in known.factors.items()}
        loss = loss_of(reader, pairs[clips, frames].to(device), held[clips, frames].to(device), factors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@dataclass(frozen=True)
class Read:
    """What a reader finds in clips: of every frame but the first, features, keys, axes and factors."""

    features: Tensor
    keys: Tensor
    axes: Tensor
    factors: Mapping[str, Tensor]


@torch.no_grad()
def read(reader: ActionReader, latents: Tensor) -> Read:
    """Seen in ``latents`` [B, C, T, H, W]: features [B, T - 1, F], keys and axes [B, T - 1, stride, n], factors."""
    device = next(reader.parameters()).device
    pairs = pairs_of(latents.float())
    with torch.autocast(device.type, enabled=False):
        parts = [reader(part.to(device)) for part in pairs.flatten(0, 1).split(256)]
    shape, count = pairs.shape[:2], len(reader.keys)
    features = torch.cat([part[0] for part in parts]).cpu().unflatten(0, shape)
    told = torch.cat([part[1] for part in parts]).cpu().unflatten(0, shape)
    factors = {
        name: torch.cat([part[2][place] for part in parts]).argmax(-1).cpu().unflatten(0, shape)
        for place, name in enumerate(reader.names)
    }
    return Read(features, told[..., :count] > 0, told[..., count:], factors)
