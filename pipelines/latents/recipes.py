"""What latents and embeddings are functions of, as one hash each: what has another recipe is encoded again.

A recipe holds everything that shapes the numbers: weights, configuration, precision and the code that computes them
(its syntax tree, so that comments and docstrings encode nothing again). Not in it, because at most a last bit follows:
batch size, processor, versions of libraries. ``precision: auto`` stands for itself: name one where machines with and
without bf16 encode the same clips. Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pipelines import stage
from pipelines.latents.params import EmbeddedText, LatentShardsParams, PretrainedText
from pipelines.models import hub

SHAPES_LATENTS = (
    ("latents/encoder.py", ("encode_batch",)),
    ("latents/clips.py", ("channels_first", "to_unit_range")),
    ("data/video.py", None),
    ("models/autoencoder.py", None),
    ("models/pretrained_autoencoder.py", None),
    ("models/geometry.py", None),
)
"""Modules below ``pipelines/``, or functions and classes in them, between a clip's file and its latents."""
SHAPES_EMBEDS = (("latents/text.py", None),)
"""The same for prompts and their embeddings."""


def latents_recipe(params: LatentShardsParams, autoencoder: Path) -> str:
    """SHA-256 of what makes latents of a clip: the autoencoder in the checkpoint folder, precision, code."""
    config = autoencoder / "config.json"
    return _hashed(
        autoencoder=stage.digest(autoencoder),
        config=stage.file_digest(config) if config.is_file() else None,
        precision=params.precision,
        code=_code(SHAPES_LATENTS),
    )


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
def _code(modules: tuple[tuple[str, tuple[str, ...] | None], ...]) -> str:
    """SHA-256 of the syntax trees, without comments and docstrings."""
    texts = []
    for name, chosen in modules:
        tree = _without_docstrings(ast.parse((Path(__file__).parents[1] / name).read_text(encoding="utf-8")))
        parts = [node for node in tree.body if chosen is None or getattr(node, "name", None) in chosen]
        texts += [ast.dump(part) for part in parts]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            ]
    return tree
