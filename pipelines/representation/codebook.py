"""The folder of a codebook: centres and the embedding's numbers, assignments, and what they were made from.

``codebook.safetensors``: ``centroids`` [K, D] and the fitted tensors of the embedding. ``assignments.parquet``: key,
pseudo_class, distance, margin, split. ``embeddings.npy``: h [N, D] float32, in the order of the assignments.
``codebook.json``: definition of the embedding, digests of latents, encoder and the files beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from pipelines.representation.embedding import Embedding, blocks
from pipelines.representation.params import EmbeddingParams
from pipelines.representation.passes import Codebook
from pipelines.stage import StageError, digest, file_digest, write_json

TENSORS, ASSIGNMENTS, FACTS, EMBEDDINGS = (
    "codebook.safetensors",
    "assignments.parquet",
    "codebook.json",
    "embeddings.npy",
)
OWNER = b"codebook_sha256"


@dataclass(frozen=True)
class Stored:
    """A codebook as read from its folder; ``h`` [N, D] is a memory map in the order of the assignments."""

    codebook: Codebook
    h: np.ndarray
    embedding: Embedding
    assignments: pd.DataFrame
    facts: dict[str, Any]

    def of(self, rows: np.ndarray) -> Stored:
        """The same of some samples; ``rows`` bool [N]."""
        if rows.all():
            return self
        return replace(self, h=self.h[rows], assignments=self.assignments[rows].reset_index(drop=True))


def write(
    folder: Path,
    codebook: Codebook,
    embedding: Embedding,
    assignments: pd.DataFrame,
    h: np.ndarray,
    facts: dict[str, Any],
) -> None:
    """Write the four files; the assignments carry the hash of the codebook that made them."""
    tensors = {f"embedding.{name}": np.ascontiguousarray(value) for name, value in embedding.tensors.items()}
    save_file({"centroids": np.ascontiguousarray(codebook.centroids), **tensors}, folder / TENSORS)
    own = file_digest(folder / TENSORS)
    table = pa.Table.from_pandas(assignments, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), OWNER: own}), folder / ASSIGNMENTS)
    stored = np.lib.format.open_memmap(folder / EMBEDDINGS, "w+", np.float32, h.shape)
    for rows in blocks(range(len(h))):
        stored[rows] = h[rows]
    stored.flush()
    definition = embedding.params.model_dump(mode="json")
    fixed = {"embedding": definition, "num_classes": len(codebook.centroids), "codebook_sha256": own}
    fixed["embeddings_sha256"] = file_digest(folder / EMBEDDINGS)
    write_json(folder / FACTS, {**facts, **fixed, "inertia": codebook.inertia})


def read(folder: Path) -> Stored:
    """The codebook of a folder.

    Raises:
        StageError: a file is missing, or assignments and centres are not of the same codebook.
    """
    for name in (TENSORS, ASSIGNMENTS, FACTS, EMBEDDINGS):
        if not (folder / name).is_file():
            raise StageError(f"{folder / name}: no such file; run the stage pseudo_classes, or `dvc checkout`.")
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    own = file_digest(folder / TENSORS)
    table = pq.read_table(folder / ASSIGNMENTS)
    if file_digest(folder / EMBEDDINGS) != facts["embeddings_sha256"]:
        raise StageError(f"{folder / EMBEDDINGS}: not the file that {FACTS} records; `dvc checkout` restores it.")
    for name, found in (
        (FACTS, facts["codebook_sha256"]),
        (ASSIGNMENTS, (table.schema.metadata or {}).get(OWNER, b"unknown").decode()),
    ):
        if found != own:
            raise StageError(
                f"{folder / name}: of codebook {found[:16]}, but {TENSORS} beside it is {own[:16]}; "
                "run the stage pseudo_classes again, or `dvc checkout`."
            )
    tensors = load_file(folder / TENSORS)
    embedding = Embedding(
        EmbeddingParams.model_validate(facts["embedding"]),
        {name.removeprefix("embedding."): value for name, value in tensors.items() if name.startswith("embedding.")},
    )
    codebook = Codebook(tensors["centroids"], facts["inertia"])
    return Stored(
        codebook, np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False), embedding, table.to_pandas(), facts
    )


def require_sources(stored: Stored, latents: Path, latent_mae: Path, keys: list[str], folder: Path) -> None:
    """Check that a codebook was made from these latents by this encoder and covers every sample.

    Raises:
        StageError: naming what differs.
    """
    for name, path in (("latents", latents), ("latent_mae", latent_mae)):
        found, expected = digest(path), stored.facts[name]
        if found != expected:
            raise StageError(
                f"{folder / FACTS}: classes were made with {name} {expected[:16]}, but {path} is {found[:16]}. "
                "Run the stage pseudo_classes again."
            )
    missing = sorted(set(keys) - set(stored.assignments["key"]))
    if missing:
        raise StageError(f"{folder / ASSIGNMENTS}: {len(missing)} samples have no class, first {missing[0]}.")
    if stored.assignments["key"].tolist() != keys or len(stored.h) != len(keys):
        raise StageError(
            f"{folder / ASSIGNMENTS}: not in the order of the index of {latents}; run the stage pseudo_classes again."
        )
    most = int(stored.assignments["pseudo_class"].to_numpy().max())
    if most >= len(stored.codebook.centroids):
        raise StageError(
            f"{folder / ASSIGNMENTS}: class {most} in a codebook of {len(stored.codebook.centroids)} classes."
        )
