"""From a prompt to an mp4 with any flow checkpoint: ``reel generate --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.batches import pad
from pipelines.data.contract import TEXT_ENCODER, require_autoencoder
from pipelines.data.shards import Shards
from pipelines.data.video import write_mp4
from pipelines.flow.params import Guidance
from pipelines.models.autoencoder import load_autoencoder
from pipelines.stage import StageError
from pipelines.training.generator import Generator


def embed(prompts: Sequence[str], folder: Path) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, D] and mask [B, L] by the text encoder kept beside the latents, as the shards hold them.

    Raises:
        StageError: there is none, or none of a prompt's words is known to it.
    """
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = folder / TEXT_ENCODER
    if not place.is_dir():
        raise StageError(f"{place}: no such folder; these latents were encoded with a text encoder kept elsewhere.")
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    network = T5EncoderModel.from_pretrained(place).eval()
    embeds = []
    for prompt in prompts:
        numbers = tokenizer(prompt)["input_ids"]
        if set(numbers) <= {tokenizer.unk_token_id, tokenizer.eos_token_id}:
            raise StageError(f"{place}: knows none of the words of {prompt!r}; use words of the captions.")
        with torch.no_grad():
            hidden = network(input_ids=torch.tensor([numbers])).last_hidden_state[0]
        embeds.append(hidden.half().float())
    return pad(embeds)


def generate(
    generator: Generator, prompts: Sequence[str], seeds: Sequence[int], latents: Path, autoencoder: Path
) -> Tensor:
    """Video [B, 3, T, H, W] in [-1, 1], one clip per prompt and seed.

    Args:
        generator: of a flow checkpoint.
        latents: the data set it was trained on: text encoder, empty prompt.
        autoencoder: what made those latents.

    Raises:
        StageError: these three do not belong together, or a prompt has no known word or is too long.
    """
    shards = Shards(latents)
    require_autoencoder(shards.manifest, autoencoder)
    generator.require_autoencoder(shards.manifest.autoencoder.digest, str(autoencoder))
    embeds, mask = embed(prompts, latents)
    try:
        sampled = generator.sample(embeds, mask, torch.from_numpy(shards.empty_prompt), seeds)
    except ValueError as error:
        raise StageError(str(error)) from None
    with torch.no_grad():
        return load_autoencoder(autoencoder).decode(sampled.cpu())


def write(video: Tensor, path: Path, frame_rate: float, facts: dict[str, str]) -> None:
    """One clip [3, T, H, W] as mp4, with ``facts`` in its metadata."""
    frames = ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames, frame_rate, metadata=facts)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel generate", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of a flow, e.g. checkpoints/rectified_flow"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="one prompt")
    what.add_argument("--prompts", type=Path, help="text file, a prompt on each line")
    parser.add_argument("--out", type=Path, required=True, help="an mp4; with --prompts a folder")
    parser.add_argument("--latents", type=Path, default=Path("data/latents"))
    parser.add_argument("--autoencoder", type=Path, default=Path("checkpoints/autoencoder"))
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; the next ones count on")
    parser.add_argument("--steps", type=int, help="default: as the checkpoint states")
    parser.add_argument("--guidance", type=float, help="scale above 1; default: as the checkpoint states")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = arguments(argv)
    try:
        generator = Generator.load(given.checkpoint)
        guidance = Guidance(scale=given.guidance, rescale=0.0) if given.guidance is not None else None
        generator = generator.with_sampling(steps=given.steps, guidance=guidance)
        lines = [given.prompt] if given.prompt else given.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
        seeds = list(range(given.seed, given.seed + len(prompts)))
        clips = generate(generator, prompts, seeds, given.latents, given.autoencoder)
        for number, (prompt, seed, clip) in enumerate(zip(prompts, seeds, clips, strict=True)):
            path = given.out if given.prompt else given.out / f"{number:03d}.mp4"
            write(clip, path, generator.facts["frame_rate"], {"title": prompt, "comment": f"seed {seed}"})
            print(f"{path}: {prompt}", flush=True)
    except (ValueError, OSError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
