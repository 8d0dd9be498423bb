"""A folder of tiny clips and the parameters that encode it in a second."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.catalog import write_catalog
from pipelines.data.video import write_mp4
from pipelines.latents.loss_params import Losses
from pipelines.latents.params import (
    Augmentation,
    AutoencoderGates,
    AutoencoderParams,
    EmbeddedText,
    LatentShardsParams,
    PretrainedAutoencoderParams,
    StackedAutoencoderParams,
)
from pipelines.params import AdamW, Constant, Training

NUM_FRAMES, SIDE = 5, 16
TERMS = tuple(Losses.model_fields)


def losses(**blocks: Any) -> Losses:
    """The squared error of pixels, and the blocks given; ``reconstruction: None`` leaves it out."""
    plain = {"reconstruction": {"kind": "mse", "weight": 1.0, "warmup": None}}
    return Losses.model_validate(dict.fromkeys(TERMS) | plain | blocks)


def frames(number: int, side: int = SIDE, length: int = NUM_FRAMES) -> np.ndarray:
    """A bright square that moves over a dark ground; colour and place follow from the number."""
    random = np.random.default_rng(number)
    video = np.full((length, side, side, 3), 30 + 10 * (number % 4), np.uint8)
    colour, left = random.integers(120, 255, 3), int(random.integers(0, side // 4))
    for frame in range(length):
        video[frame, 4:12, left + frame : left + frame + 6] = colour
    return video


@cache
def mp4_bytes(number: int, side: int = SIDE, length: int = NUM_FRAMES) -> bytes:
    """The clip as a file, the same bytes whenever it is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "clip.mp4", frames(number, side, length), 8.0)
        return (Path(folder) / "clip.mp4").read_bytes()


def write_clips(
    folder: Path, numbers: range | list[int] = range(8), side: int = SIDE, length: int = NUM_FRAMES, **changes: Any
) -> Path:
    """Clips as raw_video leaves them: every fourth held out; columns of ``changes`` are set for all."""
    (folder / "clips").mkdir(parents=True)
    rows = []
    for number in numbers:
        (folder / f"clips/clip-{number}.mp4").write_bytes(mp4_bytes(number, side, length))
        row = {
            "key": f"clip-{number}",
            "file": f"clips/clip-{number}.mp4",
            "caption": f"a {('red', 'green')[number % 2]} square moves right",
            "split": "validation" if number % 4 == 3 else "train",
            "num_frames": length,
            "height": side,
            "width": side,
            "frame_rate": 8.0,
            "source": "drawn",
            "start_seconds": 0.0,
            "end_seconds": length / 8.0,
            "content_hash": f"{number:064d}",
            "actions": [[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]] * length,
            "factor_color": ("red", "green")[number % 2],
        }
        rows.append(row | changes)
    write_catalog(folder, rows)
    return folder


def autoencoder_params(
    steps: int = 3,
    pretrained: PretrainedAutoencoderParams | None = None,
    augmentation: Augmentation | None = None,
    **gates: float,
) -> AutoencoderParams:
    """A network of a few thousand weights; gates that let everything pass."""
    adamw = AdamW(name="adamw", learning_rate=0.003, betas=(0.9, 0.99), weight_decay=0.0)
    return AutoencoderParams(
        pretrained=pretrained,
        network=StackedAutoencoderParams(frames=4, patch=4, width=8, latent_channels=4, blocks=1, spade=None),
        losses=losses(),
        augmentation=augmentation,
        gates=AutoencoderGates(**({"min_latent_std": 0.0, "min_psnr": 0.0} | gates)),
        training=Training(
            seed=0,
            steps=steps,
            batch_size=4,
            micro_batch=2,
            precision="fp32",
            gradient_checkpointing=False,
            compile=False,
            max_grad_norm=1.0,
            ema=None,
            optimizer=adamw,
            schedule=Constant(shape="constant", warmup_steps=0),
            per_network=None,
            stop_when=None,
            log_every=1,
            save_every=steps,
            validate_every=steps,
        ),
    )


def shards_params(samples_per_shard: int = 3) -> LatentShardsParams:
    """The embedded text encoder, small."""
    text = EmbeddedText(kind="embedded", dim=16, layers=1, heads=2, max_length=12, seed=0)
    return LatentShardsParams(samples_per_shard=samples_per_shard, batch_size=4, precision="fp32", text=text)
