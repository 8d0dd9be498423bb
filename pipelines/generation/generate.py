"""From prompts to mp4 files, or pictures, with any flow checkpoint, refined where asked: ``reel generate --help``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines import stage
from pipelines.data.video import Mp4
from pipelines.flow.params import Guidance
from pipelines.flow.samplers import SAMPLERS
from pipelines.generation import contact_sheet
from pipelines.generation.clip_maker import ClipMaker, Wanted
from pipelines.generation.finished import finish, watermark
from pipelines.generation.pipeline import surroundings
from pipelines.progress import Progress
from pipelines.provenance import text_of
from pipelines.stage import StageError
from pipelines.textfile import TextError, lines_of, one_line, read_text
from pipelines.told import plain
from pipelines.training.generator import Generator

SHEET = "contact_sheet.png"
PICTURE = ".png"


def size(text: str) -> tuple[int, int]:
    """Height and width of ``480x832``."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 480x832")
    return int(found[1]), int(found[2])


def whole_number(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed_number(text: str) -> int:
    """A number from 0, of at most 63 bits: generators of random numbers take no other."""
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _guidance(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?", text) or float(text) < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1 (1: no guidance)")
    return float(text)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel generate", description=plain(__doc__))
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of a flow, e.g. checkpoints/rectified_flow"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="one prompt")
    what.add_argument("--prompts", type=Path, help="text file, a prompt on each line")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"an mp4, or of one frame a png; with --prompts a folder, which gets a {SHEET}",
    )
    parser.add_argument("--negative", metavar="PROMPT", help="what guidance leads away from; default: the empty prompt")
    parser.add_argument("--image", type=Path, help="a picture to start from (flows trained with a first_frame_share)")
    parser.add_argument(
        "--refine", type=Path, metavar="CHECKPOINT", help="a refiner: it keeps only keyframes of the flow"
    )
    parser.add_argument("--num-frames", type=whole_number, help="frames of the video; default: as in training")
    parser.add_argument("--size", type=size, metavar="HEIGHTxWIDTH", help="pixels; default: as in training")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the first clip; the next ones count on")
    parser.add_argument("--steps", type=whole_number, help="default: as the checkpoint states, like the next two")
    parser.add_argument("--guidance", type=_guidance, help="scale; 1: none")
    parser.add_argument("--sampler", choices=SAMPLERS, help="solver of the flow; default: as the checkpoint states")
    parser.add_argument("--latents", type=Path, help="that it was trained on; default: its own, or data/latents")
    parser.add_argument("--autoencoder", type=Path, help="of those; default: its own, or found in checkpoints/")
    parser.add_argument("--batch-size", type=whole_number, default=8, help="clips sampled together; changes no clip")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    return parser.parse_args(argv)


def read_prompts(given: argparse.Namespace) -> list[str]:
    """The prompts that the command line names, each in one line as captions are, without empty ones.

    Raises:
        StageError: there is none, or the file is no text.
    """
    try:
        lines = [given.prompt] if given.prompt is not None else lines_of(read_text(given.prompts))
    except (TextError, OSError) as error:
        reason = error if isinstance(error, TextError) else error.strerror
        raise StageError(f"--prompts: {given.prompts}: {reason}.") from None
    prompts = [prompt for prompt in map(one_line, lines) if prompt]
    if not prompts:
        raise StageError(f"{given.prompts or '--prompt'}: no prompt in it; write one on each line.")
    return prompts


def load(given: argparse.Namespace) -> Generator:
    """The generator with the wanted steps, sampler and guidance, on the wanted device.

    Raises:
        StageError: it cannot be sampled so, or not from prompts alone.
    """
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator.load(given.checkpoint, device)
    if "keyframes" in generator.needs:
        raise StageError(
            f"{given.checkpoint}: a refiner, which starts from keyframes: name a flow here and it with --refine, or "
            "give pictures to `reel refine`."
        )
    if "keypatches" in generator.needs:
        raise StageError(
            f"{given.checkpoint}: refines pictures from some of their patches, not prompts; evaluation samples it."
        )
    if "prompt" not in generator.needs:
        raise StageError(
            f"{given.checkpoint}: is told {' and '.join(generator.needs)}, not a prompt; for a world model it is "
            f'`reel play --checkpoint {given.checkpoint} --image first.png --actions "W*30,D*15" --out demo.mp4`.'
        )
    guidance = Guidance(scale=given.guidance, rescale=0.0) if given.guidance not in (None, 1.0) else None
    generator = generator.with_sampling(given.steps, guidance, given.sampler)
    return generator.without_guidance() if given.guidance == 1.0 else generator


def story(generator: Generator, seed: int, wanted: Wanted, ending: str) -> str:
    """What a file says of how it was made."""
    parts = [f"seed {seed}", generator.story]
    parts += [f"negative prompt {wanted.negative!r}"] * (wanted.negative is not None)
    parts += [f"first frame {wanted.image.name}"] if wanted.image is not None else []
    parts += [f"{wanted.refiner.story} by {wanted.refiner.name}"] if wanted.refiner is not None else []
    parts += [f"{generator.facts['frame_rate']:g} frames/s", "h264"] if ending != PICTURE else []
    return ", ".join([*parts, generator.name])


def check_out(given: argparse.Namespace) -> None:
    """Make the folder that clips go to, before anything is sampled for it.

    Raises:
        StageError: one clip is to go to a file that is no mp4 or png. OSError: the folder cannot be made or written.
    """
    if given.prompt is not None and given.out.suffix.lower() not in (".mp4", PICTURE):
        raise StageError(
            f"--out {given.out}: one clip is written as an mp4; end the name in .mp4 (or .png, where it is one frame)."
        )
    folder = given.out.parent if given.prompt is not None else given.out
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise StageError(f"--out {given.out}: {folder} cannot be written.")


def write_clips(given: argparse.Namespace) -> None:
    """Sample, decode and write every clip as soon as it is there, and the contact sheet at the end."""
    prompts = read_prompts(given)
    check_out(given)
    generator = load(given)
    refiner = Generator.load(given.refine, generator.device) if given.refine is not None else None
    wanted = Wanted(given.num_frames, given.size, given.image, given.negative, refiner)
    seeds = list(range(given.seed, given.seed + len(prompts)))
    latents, autoencoder = surroundings(given.checkpoint, given.latents, given.autoencoder)
    read = {"checkpoint": given.checkpoint, "latents": latents, "autoencoder": autoencoder}
    maker = ClipMaker(generator, latents, autoencoder)
    num_frames, height, width = maker.video_shape(wanted)
    if given.prompt is not None and given.out.suffix.lower() == PICTURE and num_frames > 1:
        raise StageError(f"--out {given.out}: a png is one frame, and this clip has {num_frames}; end it in .mp4.")
    mark, strips = watermark(), []
    ending = PICTURE if num_frames == 1 else ".mp4"
    for number, latents in enumerate(maker.latents_of(prompts, seeds, wanted, given.batch_size)):
        path = given.out if given.prompt is not None else given.out / f"{number:03d}{ending}"
        facts = {"title": prompts[number], "comment": story(generator, seeds[number], wanted, path.suffix.lower())}
        pieces = map(mark, maker.frames(latents))
        if path.suffix.lower() == PICTURE:
            shown = write_picture(path, pieces, facts)
        else:
            with Mp4(path, (height, width), generator.facts["frame_rate"], facts) as film:
                shown = write_film(film, pieces, num_frames)
            finish(path, "reel generate", {"prompt": prompts[number], "how": facts["comment"]}, read)
        print(f"{path}: {text_of(prompts[number])}", flush=True)
        strips.append(contact_sheet.strip(shown))
    if given.prompts is not None:
        for page in contact_sheet.draw(strips, prompts, given.out / SHEET):
            print(f"{page}: {len(prompts)} prompts", flush=True)


def write_picture(path: Path, pieces: Iterable[np.ndarray], facts: Mapping[str, str]) -> np.ndarray:
    """Write a clip of one frame, uint8 [1, H, W, 3], without loss; ``facts`` stand in its text chunks."""
    shown, told = np.concatenate(list(pieces)), PngInfo()
    for name, text in facts.items():
        told.add_itxt(name.title(), text)
    Image.fromarray(shown[0]).save(path, "PNG", pnginfo=told)
    return shown


def write_film(film: Mp4, pieces: Iterable[np.ndarray], num_frames: int) -> np.ndarray:
    """Write a clip as its pieces uint8 [t, H, W, 3] come; returns the frames that a contact sheet shows of it."""
    shown, places, done = [], set(contact_sheet.places(num_frames)), 0
    for piece in pieces:
        for frame in piece:
            film.add(frame)
            if done in places:
                shown.append(frame.copy())
            done += 1
    return np.stack(shown)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = arguments(argv)
    stage.current().progress = Progress("generate")
    try:
        write_clips(given)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
