"""Roll a world model out under keys and mouse: ``reel play --help``.

Writes the video, and beside it the same with keys and cursor drawn in and the actions as csv. ``--live`` opens a page
on this machine where a person drives it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipelines.data import action_plans
from pipelines.data.actions import ActionError
from pipelines.data.contract import ActionFacts, find_autoencoder
from pipelines.data.video import Mp4
from pipelines.flow.samplers import SAMPLERS
from pipelines.generation.finished import finish, watermark
from pipelines.generation.generate import seed_number
from pipelines.generation.world_model.overlay import Overlay
from pipelines.generation.world_model.player import Player, load_world
from pipelines.stage import StageError
from pipelines.told import plain

MOST_FRAMES = 1_000_000


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MOST_FRAMES}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel play", description=plain(__doc__))
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="folder of a world model, e.g. checkpoints/world_model")
    add("--image", type=Path, required=True, help="the picture that the video starts from")
    add(
        "--actions",
        help='forward, random, a csv log, or a trajectory such as "W*30,D*15" (keys held for so many frames)',
    )
    add("--num-frames", type=_count, help="of the video; default: as many as the log has, else 81")
    add("--out", type=Path, help="an mp4; NAME-keys.mp4 and NAME.csv are written beside it")
    add("--live", action="store_true", help="drive it in the browser instead, with keyboard and mouse")
    add("--port", type=_port, default=8765, help="of --live, on this machine alone; 0: any free one")
    add("--seed", type=seed_number, default=0, help="of the noise, and of random actions")
    add("--steps", type=_count, help="levels per chunk; default: as the checkpoint states")
    add("--sampler", choices=SAMPLERS, help="solver of the flow; default: as the checkpoint states")
    add("--autoencoder", type=Path, help="of the latents it was trained on; default: found in checkpoints/")
    add("--device", help="default: cuda where there is one, else cpu")
    given = parser.parse_args(argv)
    if not given.live and (given.out is None or given.actions is None):
        parser.error("--actions and --out are needed, or --live")
    return given


def planned(given: argparse.Namespace, facts: ActionFacts, frame_rate: float) -> np.ndarray:
    """The actions [frames, A] that the command line asks for; row 0 belongs to the picture and moves nothing.

    A trajectory's first frame follows the picture. After its end nothing is held.

    Raises:
        ActionError: they cannot be read, or a log is shorter than the video.
    """
    frames = given.num_frames or 81
    if given.actions == "forward":
        return action_plans.forward(facts, frames)
    if given.actions == "random":
        return action_plans.drawn(facts, frames, given.seed)
    if given.actions.lower().endswith(".csv"):
        held = action_plans.read_log(Path(given.actions), facts, frame_rate)
        if given.num_frames and given.num_frames > len(held):
            raise ActionError(f"{given.actions}: {len(held)} frames, --num-frames {given.num_frames} asks for more.")
        if given.num_frames and given.num_frames < len(held):
            print(f"{given.actions}: {len(held)} frames, the first {given.num_frames} are used")
        return held[: given.num_frames]
    if Path(given.actions).is_file():
        raise ActionError(f"--actions {given.actions}: a file, but a log is a csv whose name ends in .csv.")
    rows = action_plans.trajectory(given.actions, facts)
    held = np.concatenate([rows[:1], rows])[:frames]
    if len(held) < frames:
        print(f"--actions: {len(rows)} frames; nothing is held in the last {frames - len(held)} of {frames}")
        held = np.concatenate([held, np.zeros((frames - len(held), rows.shape[1]), np.float32)])
    return held


def check_out(path: Path) -> tuple[Path, Path]:
    """The names of the video with keys and of the csv, before anything is computed for them.

    Raises:
        StageError: the name is no mp4's, or the folder cannot be written.
    """
    if path.suffix.lower() != ".mp4":
        raise StageError(f"--out {path}: a video is written as an mp4; end the name in .mp4.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise StageError(f"--out {path}: {path.parent} cannot be written.")
    return path.with_name(f"{path.stem}-keys.mp4"), path.with_suffix(".csv")


def write(player: Player, held: np.ndarray, out: Path, seed: int) -> float:
    """Play and write; returns frames per second. Files appear whole, or not at all; memory does not grow."""
    keys, log = check_out(out)
    frames, size = len(held), (player.height, player.width)
    overlay = Overlay(player.facts, size)
    parts = {path: path.with_name(f".{path.name}.part") for path in (out, keys)}
    facts = {"title": player.image.name, "comment": f"seed {seed}, {player.world.name}"}

    def rows(start: int, stop: int) -> np.ndarray:
        part = held[start : min(stop, frames)]
        return np.concatenate([part, np.repeat(held[-1:], max(0, stop - max(start, frames)), 0)])

    done, began, mark = 0, time.perf_counter(), watermark()
    try:
        with (
            Mp4(parts[out], size, player.frame_rate, facts) as plain,
            Mp4(parts[keys], (overlay.height, overlay.width), player.frame_rate, facts) as drawn,
        ):
            for made in player.play(rows, seed):
                for pixels in mark(made)[: frames - done]:
                    plain.add(pixels)
                    drawn.add(overlay.draw(pixels, held[done]))
                    done += 1
                if done >= frames:
                    break
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    action_plans.write_log(log, held, player.facts, player.frame_rate)
    return done / (time.perf_counter() - began)


def run(given: argparse.Namespace) -> None:
    """Do what the command line asks."""
    if given.out is not None:
        check_out(given.out)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    world = load_world(given.checkpoint, device, given.steps, given.sampler)
    made_by = world.facts["autoencoder"]["digest"]
    autoencoder = given.autoencoder or find_autoencoder(made_by, Path("checkpoints"))
    player = Player(world, autoencoder, given.image)
    if given.live:
        from pipelines.generation.world_model.live import serve

        serve(player, given.port, given.seed)
        return
    held, out = planned(given, player.facts, player.frame_rate), Path(str(given.out))
    rate = write(player, held, out, given.seed)
    keys, log = check_out(out)
    read = {"checkpoint": given.checkpoint, "autoencoder": autoencoder, "actions": log}
    for clip in (out, keys):
        finish(clip, "reel play", {"image": given.image.name, "seed": given.seed}, read)
    print(f"{out}: {len(held)} frames, made and written at {rate:.1f} a second; with keys: {keys}; actions: {log}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = arguments(argv)
    try:
        run(given)
    except KeyboardInterrupt:
        print("play: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"play: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
