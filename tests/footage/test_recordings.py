"""Recordings: numbered frames with an action log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.video import read_clip
from pipelines.footage.params import RawVideoParams
from tests.footage.footage import footage, frames, refused, run


def record(path: Path, num_frames: int, log: str, seed: int = 0, without: tuple[int, ...] = ()) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(frames(num_frames, seed)):
        if number not in without:
            Image.fromarray(pixels).save(path / f"frame_{number:04d}.png")
    (path / "input.csv").write_text(log)
    path.with_name(path.name + ".txt").write_text("a game")


def recordings(path: Path, **block: object) -> RawVideoParams:
    known = {"path": str(path), "frame_rate": 16.0, "action_log": "input.csv", "captions": None}
    return footage("recordings", **{**known, **block})


LOG = "key,time,frame\nW,0.0,0\nW,0.06,1\nd,0.06,1\nW,0.12,2\nspace,0.1,2\nA,0.5,9\n"


def test_a_recording_gives_clips_with_the_keys_that_led_to_each_frame(tmp_path: Path) -> None:
    record(tmp_path / "in/run 1", 32, LOG)
    catalog, _ = run(recordings(tmp_path / "in"), tmp_path)
    assert catalog["source"].tolist() == ["run 1"] * 3 and set(catalog["caption"]) == {"a game"}
    held = np.stack(list(catalog["actions"][0]))
    wanted = np.zeros((5, 6))
    wanted[0, 0] = wanted[1, 0] = wanted[1, 3] = (
        1  # frame 2 of the recording is frame 1 of the clip: 1 and 2 lead there
    )
    assert (held == wanted).all()
    assert np.stack(list(catalog["actions"][1]))[0].sum() == 0
    levels = read_clip(tmp_path / "clips" / str(catalog["file"][0]))[..., 0].mean((1, 2))
    assert levels == pytest.approx(35 + 200 * np.arange(0, 10, 2) / 32, abs=5)


@pytest.mark.costly
def test_a_recording_that_grows_keeps_its_clips_and_another_log_makes_others(tmp_path: Path) -> None:
    record(tmp_path / "in/a", 22, LOG)
    record(tmp_path / "in/b", 22, LOG, seed=1)
    record(tmp_path / "in/c", 22, LOG, seed=2)
    before, _ = run(recordings(tmp_path / "in"), tmp_path)
    for number, pixels in enumerate(frames(22, seed=5)):
        Image.fromarray(pixels).save(tmp_path / f"in/b/frame_{22 + number:04d}.png")
    after, metrics = run(recordings(tmp_path / "in"), tmp_path)
    keyed = [dict(zip(one["key"], one["split"], strict=True)) for one in (before, after)]
    assert keyed[0].items() <= keyed[1].items() and len(after) == len(before) + 2
    assert metrics["files_decoded"] == 1
    (tmp_path / "in/a/input.csv").write_text(LOG.replace("W,0.0,0", "S,0.0,0"))
    other, _ = run(recordings(tmp_path / "in"), tmp_path)
    assert len(set(other["key"]) & set(after["key"])) == len(after) - 1


def test_missing_frames_are_cut_around_and_broken_logs_are_listed(tmp_path: Path) -> None:
    record(tmp_path / "in/gap", 34, LOG, without=tuple(range(11, 16)))
    record(tmp_path / "in/log", 12, "key,time,frame\nW,zero,0\n", seed=1)
    record(tmp_path / "in/nolog", 12, LOG, seed=2)
    (tmp_path / "in/nolog/input.csv").unlink()
    record(tmp_path / "in/twice", 12, LOG, seed=3)
    (tmp_path / "in/twice/frame_00003.png").write_bytes((tmp_path / "in/twice/frame_0003.png").read_bytes())
    catalog, _ = run(recordings(tmp_path / "in", max_rejected_share=0.8), tmp_path)
    assert catalog["source"].tolist() == ["gap"] * 3 and catalog["start_seconds"].tolist() == [0.0, 1.0, 1.625]
    assert refused(tmp_path) == {"log": "bad_action_log", "nolog": "no_action_log", "twice": "bad_frames"}
