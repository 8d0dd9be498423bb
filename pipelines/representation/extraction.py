"""From shards to feature matrices, a batch at a time: memory holds features, never all latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from pipelines import stage
from pipelines.data.shards import Shards
from pipelines.models.latent_mae import LatentMae
from pipelines.training import checkpoint

CHECKED = 4096
"""Rows of prompt embeddings that are checked at once."""


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


def keyframes(frames: int, count: int) -> list[int]:
    """Numbers of up to ``count`` of ``frames`` latent frames, evenly spread, the first and last among them."""
    return np.unique(np.linspace(0, frames - 1, min(count, frames)).round().astype(int)).tolist()


def known_features(
    encoder: LatentMae, shape: tuple[int | None, ...], count: int | None = None
) -> dict[str, torch.Tensor]:
    """The encoder's features of one clip of zeros, for their names and lengths; of ``count`` keyframes, or all frames.

    Raises:
        StageError: its patches span several frames, so keyframes alone cannot be read.
    """
    clip = torch.zeros(1, *(length or 1 for length in shape))
    frames = None if count is None else keyframes(clip.shape[2], count)
    try:
        return encoder.features(clip if frames is None else clip[:, :, frames], None, frames)
    except ValueError as error:
        raise stage.StageError(
            f"pseudo_classes.embedding.num_keyframes: {error}; train one with latent_mae.architecture.patch [1, …]."
        ) from None


def check_names(encoder: LatentMae, shape: tuple[int | None, ...], names: Iterable[str], where: str) -> None:
    """Check that the encoder has the features that ``where`` (a key of params.yaml) names.

    Raises:
        StageError: naming the first unknown feature and what there is.
    """
    known = known_features(encoder, shape)
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


Widths = dict[str, int]


def widths(shards: Shards, encoder: LatentMae, names: Iterable[str], num_keyframes: int | None = None) -> Widths:
    """Length D of every named feature, of keyframes or of whole clips."""
    known = known_features(encoder, shards.manifest.fields["latents"].shape, num_keyframes)
    return {name: known[name].shape[1] for name in names}


@torch.no_grad()
def extract_into(
    into: Mapping[str, np.ndarray],
    places: range,
    shards: Shards,
    rows: Sequence[int] | np.ndarray,
    encoder: LatentMae,
    batch_size: int,
    num_keyframes: int | None = None,
) -> None:
    """Write named features of the latents of ``rows[places]`` to ``into[name][places]``, a batch at a time.

    With ``num_keyframes``, only :func:`keyframes` of each clip are shown to the encoder.

    Raises:
        StageError: a feature is not finite.
    """
    device = PartialState().device
    encoder.to(device)
    keys = shards.index["key"].to_numpy()
    for start in range(places.start, places.stop, batch_size):
        here = slice(start, min(start + batch_size, places.stop))
        latents = torch.from_numpy(shards.load(rows[here], "latents").astype(np.float32))
        frames = None if num_keyframes is None else keyframes(latents.shape[2], num_keyframes)
        shown = latents if frames is None else latents[:, :, frames]
        features = encoder.features(shown.to(device), into.keys(), frames)
        for name, values in into.items():
            values[here] = features[name].cpu().numpy()
            check_finite(values[here], keys[np.asarray(rows[here])].tolist(), f"feature {name}")
        stage.report(here.stop - places.start, len(places), "samples")
    encoder.to("cpu")


def extract(
    shards: Shards,
    rows: Sequence[int] | np.ndarray,
    encoder: LatentMae,
    names: Sequence[str],
    batch_size: int,
    num_keyframes: int | None = None,
) -> dict[str, np.ndarray]:
    """Named features of the latents of some rows (of their keyframes): float32 [N, D] each, in the order of ``rows``.

    Raises:
        StageError: a feature is not finite.
    """
    found = widths(shards, encoder, names, num_keyframes)
    into = {name: np.empty((len(rows), width), np.float32) for name, width in found.items()}
    extract_into(into, range(len(rows)), shards, rows, encoder, batch_size, num_keyframes)
    return into


def prompt_width(shards: Shards) -> int:
    """D of the prompt embeddings."""
    width = shards.manifest.fields["prompt_embeds"].shape[-1]
    assert width is not None
    return width


def prompt_vectors_into(into: np.ndarray, places: range, shards: Shards, rows: Sequence[int] | np.ndarray) -> None:
    """Write the mean over tokens of each prompt's embedding of ``rows[places]`` to ``into[places]``.

    Raises:
        StageError: an embedding is not finite.
    """
    keys = shards.index["key"].to_numpy()
    for place in places:
        tokens = shards.read(int(rows[place]), ("prompt_embeds",))["prompt_embeds"]
        into[place] = tokens.astype(np.float32).mean(0)
    for start in range(places.start, places.stop, CHECKED):
        here = slice(start, min(start + CHECKED, places.stop))
        check_finite(np.asarray(into[here]), keys[np.asarray(rows[here])].tolist(), "prompt_embeds")


def prompt_vectors(shards: Shards, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean over tokens of each prompt's embedding: float32 [N, D].

    Raises:
        StageError: an embedding is not finite.
    """
    into = np.empty((len(rows), prompt_width(shards)), np.float32)
    prompt_vectors_into(into, range(len(rows)), shards, rows)
    return into


def raw_vectors(shards: Shards, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The latents themselves, flattened: float32 [N, C * T * H * W]."""
    return shards.load(rows, "latents").astype(np.float32).reshape(len(rows), -1)


def concatenated(features: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Some features side by side: [N, sum of D]."""
    return np.concatenate([features[name] for name in names], axis=1)
