"""What latents and embeddings are functions of, as one hash each: what has another recipe is encoded again.

A recipe holds everything that shapes the numbers: weights, configuration, precision and the identity of the code that
computes them (:mod:`pipelines.code`), so that comments, docstrings and another Python encode nothing again. Not in it,
because at most a last bit follows: batch size, processor, versions of libraries. ``precision: auto`` stands for itself:
name one where machines with and without bf16 encode the same clips. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pipelines import hub, stage
from pipelines.code.stages import identity
from pipelines.latents.params import EmbeddedText, LatentShardsParams, PretrainedText

SHAPES_LATENTS = (
    "pipelines.latents.encoder:encode_batch",
    "pipelines.data.video:read_clip",
    "pipelines.data.written:read_written",
    "pipelines.models.autoencoder:load_autoencoder",
)
"""Functions that, with all they reach, stand between a clip's file and its latents."""
DECODES = ("decoder.", "linear_out.", "post_quant_conv.")
"""What names of weights begin with that no encoding reads, in our autoencoder and in those of diffusers."""
SHAPES_EMBEDS = ("pipelines.latents.text:text_encoder",)
"""The same for prompts and their embeddings."""


def latents_recipe(params: LatentShardsParams, autoencoder: Path) -> str:
    """SHA-256 of what makes latents of a clip: the encoding half of the checkpoint's autoencoder, precision, code."""
    config = autoencoder / "config.json"
    return _hashed(
        autoencoder=encoder_digest(autoencoder),
        config=stage.file_digest(config) if config.is_file() else None,
        precision=params.precision,
        code=_code(SHAPES_LATENTS),
    )


def encoder_digest(folder: Path) -> str:
    """SHA-256 of the weights that no decoder has: another decoder encodes nothing again.

    Read from the safetensors files as they are (eight bytes of length, a JSON header, the tensors).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return stage.digest(folder)
    sums = {}
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            begin = file.tell()
            for name, facts in sorted(header.items()):
                if name == "__metadata__" or name.startswith(DECODES):
                    continue
                first, end = facts["data_offsets"]
                file.seek(begin + first)
                content = hashlib.sha256(file.read(end - first)).hexdigest()
                sums[name] = [facts["dtype"], facts["shape"], content]
    return _hashed(weights=sums)


def text_recipe(text: EmbeddedText | PretrainedText) -> str:
    """SHA-256 of what makes an embedding of a prompt: the text encoder (not its vocabulary of captions) and code."""
    content = text_content(text) if isinstance(text, PretrainedText) else None
    return _hashed(text=text.model_dump(), content=content, code=_code(SHAPES_EMBEDS))


def text_content(text: PretrainedText) -> str | None:
    """Commit of a text encoder from the hub, digest of one in a folder; None: it cannot be found."""
    folder = Path(text.name)
    if folder.is_dir():
        beside = text.tokenizer_subfolder if text.tokenizer_subfolder is not None else text.subfolder
        parts = sorted({folder / (text.subfolder or ""), folder / (beside or "")})
        return _hashed(parts=[stage.digest(part) for part in parts if part.is_dir()])
    return hub.commit(text.name, text.revision, text.subfolder)


def _hashed(**facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _code(functions: tuple[str, ...]) -> str:
    """The identity of what the functions reach."""
    return identity(functions).value
