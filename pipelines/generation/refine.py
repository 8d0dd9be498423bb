"""From keyframes to a video: pictures at their places, or a video with holes, filled in and refined.

``reel refine --help``. What is given is never perturbed: its latents come out as they went in.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pipelines import stage
from pipelines.data.video import write_mp4
from pipelines.generation import storyboard
from pipelines.generation.clip_maker import ClipMaker, Wanted
from pipelines.generation.finished import finish, watermark
from pipelines.generation.generate import check_out, seed_number, whole_number
from pipelines.generation.generate import size as pixels
from pipelines.generation.pipeline import surroundings
from pipelines.progress import Progress
from pipelines.stage import StageError
from pipelines.told import plain
from pipelines.training.generator import Generator
from pipelines.training.refining import RefinerGenerator


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel refine", description=plain(__doc__))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--keyframes", nargs="+", metavar="PICTURE@FRAME", help="pictures and where they stand, from 0")
    what.add_argument("--video", type=Path, help="an mp4 of which --missing frames are to be filled in")
    parser.add_argument("--missing", nargs="+", default=[], metavar="FRAMES", help="of --video: 5-12 14")
    parser.add_argument("--prompt", default="", help="what the clip shows; default: the empty prompt")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/drifting_refiner"), help="of a refiner")
    parser.add_argument("--out", type=Path, required=True, help="an mp4")
    parser.add_argument("--num-frames", type=whole_number, help="of the clip; default: as in training, or as --video")
    parser.add_argument("--size", type=pixels, metavar="HEIGHTxWIDTH", help="pixels; default: as in training")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the noise")
    parser.add_argument("--interpolate", action="store_true", help="fill in only, to compare with")
    parser.add_argument("--latents", type=Path, help="that it was trained on; default: its own, or data/latents")
    parser.add_argument("--autoencoder", type=Path, help="of those; default: its own, or found in checkpoints/")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    return parser.parse_args(argv)


def load(given: argparse.Namespace) -> RefinerGenerator:
    """The refiner, which keeps what it is given.

    Raises:
        StageError: the checkpoint is none, or of another kind.
    """
    generator = Generator.load(given.checkpoint, given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not isinstance(generator, RefinerGenerator):
        raise StageError(f"{given.checkpoint}: no refiner; give checkpoints/drifting_refiner, or the like.")
    return dataclasses.replace(generator, clamp=True)


def read_given(given: argparse.Namespace) -> storyboard.Given:
    """What the command line gives of the clip.

    Raises:
        StageError: it is not to be had.
    """
    if given.video is None:
        if given.missing:
            raise StageError("--missing: belongs to --video; frames without a picture are missing by themselves.")
        return storyboard.pictures(given.keyframes)
    if given.num_frames is not None:
        raise StageError("--num-frames: a video has its own number of frames; leave it out.")
    return storyboard.video(given.video, given.missing)


def write_clip(given: argparse.Namespace) -> None:
    """Encode what is given, refine, decode and write."""
    check_out(given)
    known = read_given(given)
    refiner = load(given)
    latents, autoencoder = surroundings(given.checkpoint, given.latents, given.autoencoder)
    maker, mark = ClipMaker(refiner, latents, autoencoder), watermark()
    wanted = Wanted(num_frames=known.length or given.num_frames, size=given.size)
    frames, places = maker.from_keyframes(known, given.prompt, given.seed, wanted, given.interpolate)
    how = f"keyframes filled in ({refiner.filling.mode})" if given.interpolate else refiner.story
    comment = f"seed {given.seed}, {how}, latent frames given: {' '.join(map(str, places))}, {refiner.name}"
    facts = {"title": given.prompt, "comment": comment}
    write_mp4(given.out, mark(frames), refiner.facts["frame_rate"], metadata=facts)
    read = {"checkpoint": given.checkpoint, "latents": latents, "autoencoder": autoencoder}
    finish(given.out, "reel refine", {"prompt": given.prompt, "how": comment}, read)
    print(f"{given.out}: {len(frames)} frames, latent frames given: {' '.join(map(str, places))}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = arguments(argv)
    stage.current().progress = Progress("refine")
    try:
        write_clip(given)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"refine: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
