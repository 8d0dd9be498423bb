"""The data contract: a folder of latents says of itself what it holds, and a consumer says what it reads.

``manifest.json`` stands beside the shards. Nobody guesses an axis from a shape: every field states its axes, and a
length that differs between samples is ``null``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field as Defaulted
from pydantic import PrivateAttr, StringConstraints, ValidationError

from pipelines.params import Count, Params, Whole
from pipelines.stage import StageError, digest

MANIFEST, INDEX, EMPTY_PROMPT, TEXT_ENCODER = "manifest.json", "index.parquet", "empty_prompt.npy", "text_encoder"
VERSION = 1

MEMBERS = {
    "latents": "latents.npy",
    "prompt_embeds": "prompt_embeds.npy",
    "prompt": "prompt.txt",
    "actions": "actions.npy",
}
"""Field to the name of its tar member behind the key; each sample also has a ``json`` member with lasting facts."""
CHECKSUM = "crc32_"
"""Prefix of the index columns with the CRC-32 of each member's content."""


PROMPT_TOKENS = "prompt_tokens"
"""Column of the index with the length L of a sample's ``prompt_embeds``."""


class ContractError(StageError):
    """An artifact is not what its reader needs: what is missing or different, and where."""


class Field(Params):
    """One kind of member: axes such as "C T H W", a length per axis (None: differs between samples), numpy dtype."""

    axes: str
    shape: tuple[int | None, ...]
    dtype: str


class AutoencoderFacts(Params):
    """The autoencoder that made the latents; ``latents = (codes - latent_mean) / latent_std`` per channel.

    ``revision``: the commit of one from the hub. ``latent_mean``, ``latent_std``: a number for each channel; of Cosmos,
    which normalises every latent frame by itself, for each channel one number per latent frame.
    """

    id: str
    digest: str
    revision: str | None = None
    temporal_stride: Count
    spatial_stride: Count
    latent_mean: tuple[float, ...] | tuple[tuple[float, ...], ...]
    latent_std: tuple[float, ...] | tuple[tuple[float, ...], ...]


class TextFacts(Params):
    """The text encoder that made the prompt embeddings; it stands in ``text_encoder/``.

    ``revision``: the commit of one from the hub.
    """

    id: str
    digest: str
    revision: str | None = None
    dim: Count


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""A file in the folder itself. Names and digests become paths, and a manifest may be anybody's."""
PathInside = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
"""A file below the folder: no part of its path leads up or is hidden."""


class ShardFacts(Params):
    """Content of one shard file: SHA-256, bytes, samples."""

    sha256: Sha256
    size: Count
    num_samples: Count


class ActionFacts(Params):
    """What the columns of ``actions`` [T, A] are: a name and a kind each, in order, and which frames a row joins.

    A ``key`` is 1 while it is down and 0 otherwise; a ``mouse`` axis moves by an amount in [-1, 1] per frame; a
    ``number`` is whatever the source recorded (a robot's joint, say). Row k
    leads from frame k - ``offset`` to frame k, so the first ``offset`` rows lead from before the clip.
    """

    names: tuple[str, ...]
    kinds: tuple[Literal["key", "mouse", "number"], ...]
    offset: Whole


ACTIONS = ActionFacts(names=("W", "A", "S", "D", "mouse_dx", "mouse_dy"), kinds=("key",) * 4 + ("mouse",) * 2, offset=1)
"""Keyboard and mouse: of rendered clips, of recordings, and of what a user gives by hand."""


def action_facts(width: int, names: Sequence[str] | None = None) -> ActionFacts:
    """What so many columns are: numbers of these ``names`` (robots' data sets); without names :data:`ACTIONS`, or
    numbers that are counted where there are not so many of them."""
    if names is None and width == len(ACTIONS.names):
        return ACTIONS
    told = tuple(names) if names is not None else tuple(f"action_{place}" for place in range(width))
    return ActionFacts(names=told, kinds=("number",) * width, offset=ACTIONS.offset)


class Manifest(Params):
    """What a folder of latents says of itself. ``frame_rate`` is of the clips, frames per second."""

    version: Literal[1]
    fields: dict[str, Field]  # pyright: ignore[reportIncompatibleVariableOverride]
    autoencoder: AutoencoderFacts
    text_encoder: TextFacts
    frame_rate: float
    num_samples: Whole
    splits: dict[str, int]
    shards: dict[FileName, ShardFacts]
    files: dict[PathInside, Sha256]
    """SHA-256 of every other file of the folder: index, empty prompt, text encoder."""
    actions: ActionFacts | None = None
    """Of the field ``actions``, where there is one."""
    recipes: dict[str, str] = Defaulted(default_factory=dict)
    """What latents, embeddings and shards are functions of, hashed: only what agrees with it is reused."""

    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder of latents.

        Raises:
            ContractError: there is none, or it is not readable as this version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ContractError(f"{path}: no such file, so {folder} holds no latents; run the stage latent_shards.")
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ContractError(
                f"{path}: {where}: {first['msg']}; run the stage latent_shards again (this reads version {VERSION})."
            ) from None
        manifest._folder = folder
        return manifest

    def require(self, fields: Iterable[str], by: str) -> None:
        """Check that every sample has the fields that ``by`` reads.

        Raises:
            ContractError: naming the first missing field and what there is.
        """
        fields = tuple(fields)
        for name in fields:
            if name not in self.fields:
                raise ContractError(
                    f"{self._folder / MANIFEST}: no field {name}, which {by} reads; there are "
                    f"{', '.join(self.fields)}. Encode clips that have it, or choose another system."
                )
        if "actions" in fields and self.actions is None:
            raise ContractError(
                f"{self._folder / MANIFEST}: does not say what the columns of actions are, which {by} reads; run the "
                "stage latent_shards again."
            )

    def require_one_shape(self, field: str, by: str) -> None:
        """Check that the field has the same shape in every sample.

        Raises:
            ContractError: it differs, because clips are of several forms.
        """
        if None in self.fields[field].shape:
            raise ContractError(
                f"{self._folder / MANIFEST}: {field} differ in shape between samples, and {by} takes one. Give "
                "raw_video one form (cutting.buckets: null, or one size); rectified_flow takes several."
            )


def read_empty_prompt(folder: Path) -> np.ndarray:
    """Embedding of the empty prompt of a folder of latents, float32 [L, D]."""
    return np.load(folder / EMPTY_PROMPT, allow_pickle=False).astype(np.float32)


def require_autoencoder(manifest: Manifest, checkpoint: Path) -> None:
    """Check that the latents were made by the autoencoder in the folder ``checkpoint``.

    Raises:
        ContractError: they were made by another one; names both digests.
    """
    found = digest(checkpoint)
    if found != manifest.autoencoder.digest:
        raise ContractError(
            f"{manifest._folder}: made by autoencoder {manifest.autoencoder.id} {manifest.autoencoder.digest[:16]}, "
            f"but {checkpoint} is {found[:16]}. Run latent_shards again, or give the autoencoder that made them."
        )


def find_autoencoder(wanted: str, checkpoints: Path) -> Path:
    """The autoencoder of this digest among the folders of checkpoints: latents may be of any that is kept.

    Where none has it, the one of the stage ``autoencoder``, whose digest is then told.
    """
    found = sorted(checkpoints.glob("*/config.json"))
    same = (one.parent for one in found if (one.parent / "checkpoint.json").is_file() and digest(one.parent) == wanted)
    return next(same, checkpoints / "autoencoder")
