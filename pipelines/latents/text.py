"""Prompts to embeddings: a small frozen encoder made here, or a pretrained one of transformers.

The embedded default needs no download: a word-level tokenizer over the captions' words and a random frozen T5 encoder.
Random features of word sequences keep what the words say linearly decodable, which is what conditioning needs. A word's
input vector depends on the seed and the word alone, so a caption's embedding does not change when other captions bring
new words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import hub
from pipelines.latents.params import EmbeddedText, PretrainedText
from pipelines.stage import StageError, digest

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
WORD = re.compile(r"\w+|[^\w\s]")


class TextEncoder:
    """A transformers encoder and its tokenizer.

    Args:
        id: what it is called in the manifest.
        network: gives ``last_hidden_state`` [B, L, D] for ``input_ids`` and ``attention_mask``.
        max_length: longer prompts are cut after so many tokens.
        revision: the commit of one from the hub.
    """

    def __init__(self, id: str, network: Any, tokenizer: Any, max_length: int, revision: str | None = None) -> None:
        self.revision = revision
        self.id, self.network, self.tokenizer, self.max_length = id, network.eval(), tokenizer, max_length
        self.network.requires_grad_(False)

    @property
    def dim(self) -> int:
        """D, of one token's embedding."""
        config = self.network.config
        return int(getattr(config, "d_model", None) or config.hidden_size)

    def tokens(self, prompt: str) -> list[int]:
        """Token numbers of a prompt, at least one.

        Raises:
            StageError: the tokenizer gives none (it adds no end token to an empty prompt and has none to pad with).
        """
        numbers = self.tokenizer(prompt, truncation=True, max_length=self.max_length)["input_ids"]
        if numbers:
            return list(numbers)
        if self.tokenizer.pad_token_id is None:
            raise StageError(f"text encoder {self.id}: no tokens for {prompt!r} and no padding token.")
        return [self.tokenizer.pad_token_id]

    @torch.no_grad()
    def embed(self, prompts: Sequence[str], batch_size: int) -> dict[str, np.ndarray]:
        """Prompt to embedding float16 [L, D] at the prompt's real length, each prompt once.

        Prompts of equal length go together in batches that are filled up to ``batch_size``: the arithmetic of one
        prompt does not depend on which others there are, so equal prompts give equal bytes.
        """
        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for prompt in dict.fromkeys(prompts):
            numbers = self.tokens(prompt)
            by_length.setdefault(len(numbers), []).append((prompt, numbers))
        found = {}
        for pairs in by_length.values():
            for begin in range(0, len(pairs), batch_size):
                part = pairs[begin : begin + batch_size]
                rows = [numbers for _, numbers in part]
                rows += [rows[-1]] * (batch_size - len(rows))
                inputs = torch.tensor(rows, device=self.network.device)
                hidden = self.network(input_ids=inputs, attention_mask=torch.ones_like(inputs)).last_hidden_state
                vectors = hidden[: len(part)].float().cpu().numpy().astype(np.float16)
                found |= {prompt: vector for (prompt, _), vector in zip(part, vectors, strict=True)}
        return found

    def save(self, folder: Path) -> str:
        """Write network and tokenizer as transformers' own files; returns their digest."""
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return digest(folder)


# ---- embedded -----------------------------------------------------------------------------------------------------


def vocabulary(captions: Iterable[str]) -> list[str]:
    """Special tokens, then every lower-case word and punctuation mark of the captions, sorted."""
    words = {word for caption in captions for word in WORD.findall(caption.lower())}
    return [PAD, END, UNKNOWN, *sorted(words)]


def _word_vector(word: str, seed: int, dim: int) -> np.ndarray:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{word}".encode()).digest()[:8], "little")
    return np.random.default_rng(number).standard_normal(dim).astype(np.float32)


def _tokenizer(words: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, numbers[END])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def embedded(params: EmbeddedText, captions: Iterable[str]) -> TextEncoder:
    """The tokenizer over the captions' words and the random encoder of the seed.

    Raises:
        StageError: ``dim`` is not a multiple of ``heads``.
    """
    from transformers import T5Config, T5EncoderModel

    if params.dim % params.heads:
        raise StageError(f"latent_shards.text.dim {params.dim} is not a multiple of heads {params.heads}.")
    words = vocabulary(captions)
    config = T5Config(
        vocab_size=len(words),
        d_model=params.dim,
        d_kv=params.dim // params.heads,
        d_ff=2 * params.dim,
        num_layers=params.layers,
        num_heads=params.heads,
        dropout_rate=0.0,
        pad_token_id=words.index(PAD),
        eos_token_id=words.index(END),
    )
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        table = torch.from_numpy(np.stack([_word_vector(word, params.seed, params.dim) for word in words]))
        # The table is filled afterwards: the layers' weights must not depend on how many words there are.
        config.vocab_size = 1
        layers = T5EncoderModel(config).state_dict()
        config.vocab_size = len(words)
        network = T5EncoderModel(config)
        inputs = [name for name in layers if name.endswith(("shared.weight", "embed_tokens.weight"))]
        network.load_state_dict(layers | dict.fromkeys(inputs, table))
    return TextEncoder("embedded-t5", network, _tokenizer(words), params.max_length)


# ---- pretrained ---------------------------------------------------------------------------------------------------


def pretrained(params: PretrainedText) -> TextEncoder:
    """A text encoder by folder or hub name; of an encoder-decoder (T5, umT5) only the encoder, of CLIP the text tower.

    Raises:
        StageError: it cannot be found or read.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # lines of a log, not of a terminal
    where: dict[str, Any] = {"revision": params.revision}
    here = {**where, "subfolder": params.subfolder or ""}
    names = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel", "clip": "CLIPTextModel"}
    try:
        config = transformers.AutoConfig.from_pretrained(params.name, **here)
        kind = getattr(transformers, names.get(config.model_type.removesuffix("_text_model"), "AutoModel"))
        network = kind.from_pretrained(params.name, **here)
        beside = params.tokenizer_subfolder if params.tokenizer_subfolder is not None else params.subfolder
        # With the config: a tokenizer's own folder has none, and offline it would be asked for.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            params.name, **where, subfolder=beside or "", config=config
        )
    except (OSError, ValueError, KeyError) as error:
        raise hub.unreadable("text encoder", params.name, params.revision, params.subfolder, error) from None
    places = getattr(network.config, "max_position_embeddings", None)
    if places is not None and params.max_length > places:
        raise StageError(
            f"latent_shards.text.max_length {params.max_length} is more than the {places} places of {params.name}; "
            f"give {places} or less."
        )
    commit = hub.commit(params.name, params.revision, params.subfolder)
    return TextEncoder(params.name, network, tokenizer, params.max_length, commit or params.revision)


def text_encoder(params: EmbeddedText | PretrainedText, captions: Iterable[str]) -> TextEncoder:
    """The encoder that the params name."""
    return embedded(params, captions) if isinstance(params, EmbeddedText) else pretrained(params)
