"""From shards to feature matrices, a batch at a time: memory holds features, never all latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from pipelines import stage
from pipelines.data.shards import Shards
from pipelines.models.latent_mae import LatentMae
from pipelines.training import checkpoint


def load_encoder(folder: Path) -> LatentMae:
    """The latent MAE of a checkpoint (its averaged weights where there are any), after its hashes were compared.

    Raises:
        StageError: the folder is no such checkpoint, or its weights are damaged or do not fit.
    """
    checkpoint.read(folder)
    place = folder / "ema" if (folder / "ema").is_dir() else folder
    try:
        return LatentMae.from_pretrained(place)
    except (ValueError, OSError) as error:
        raise stage.StageError(f"{place}: not a latent MAE: {error}") from None


def check_names(encoder: LatentMae, shape: tuple[int | None, ...], names: Iterable[str], where: str) -> None:
    """Check that the encoder has the features that ``where`` (a key of params.yaml) names.

    Raises:
        StageError: naming the first unknown feature and what there is.
    """
    known = encoder.features(torch.zeros(1, *(length or 1 for length in shape)))
    for name in names:
        if name not in known:
            raise stage.StageError(f"{where}: this encoder has no feature {name}; it has {', '.join(known)}.")


def check_finite(values: np.ndarray, keys: Sequence[str], what: str) -> None:
    """Stop at the first sample with a NaN or an infinity.

    Raises:
        StageError: naming sample and feature.
    """
    broken = ~np.isfinite(values).all(1)
    if broken.any():
        raise stage.StageError(
            f"{what}: {int(broken.sum())} samples have values that are not finite, first {keys[int(broken.argmax())]}. "
            "Look at these samples (`reel verify`), or encode or train again with lower rates."
        )


@torch.no_grad()
def extract(
    shards: Shards, rows: Sequence[int] | np.ndarray, encoder: LatentMae, names: Sequence[str], batch_size: int
) -> dict[str, np.ndarray]:
    """Named features of the latents of some rows: float32 [N, D] each, in the order of ``rows``.

    Raises:
        StageError: a feature is not finite.
    """
    device = PartialState().device
    encoder.to(device)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in range(0, len(rows), batch_size):
        latents = torch.from_numpy(shards.load(rows[start : start + batch_size], "latents").astype(np.float32))
        features = encoder.features(latents.to(device))
        for name in names:
            found[name].append(features[name].cpu().numpy())
        stage.report(min(start + batch_size, len(rows)), len(rows), "samples")
    encoder.to("cpu")
    keys = shards.index["key"].to_numpy()[np.asarray(rows)]
    stacked = {name: np.concatenate(parts) for name, parts in found.items()}
    for name, values in stacked.items():
        check_finite(values, keys.tolist(), f"feature {name}")
    return stacked


def prompt_vectors(shards: Shards, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean over tokens of each prompt's embedding: float32 [N, D].

    Raises:
        StageError: an embedding is not finite.
    """
    vectors = [shards.read(int(row), ("prompt_embeds",))["prompt_embeds"].astype(np.float32).mean(0) for row in rows]
    keys = shards.index["key"].to_numpy()[np.asarray(rows)]
    stacked = np.stack(vectors)
    check_finite(stacked, keys.tolist(), "prompt_embeds")
    return stacked


def raw_vectors(shards: Shards, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The latents themselves, flattened: float32 [N, C * T * H * W]."""
    return shards.load(rows, "latents").astype(np.float32).reshape(len(rows), -1)


def concatenated(features: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Some features side by side: [N, sum of D]."""
    return np.concatenate([features[name] for name in names], axis=1)
