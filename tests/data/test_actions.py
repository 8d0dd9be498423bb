"""Which raw actions a latent frame sees, and actions that people give."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.action_plans import drawn, forward, read_log, trajectory, write_log
from pipelines.data.actions import ActionError, aligned, require_same, rows_of
from pipelines.data.contract import ACTIONS, ActionFacts, ContractError

RATE = 8.0


@given(frames=st.integers(1, 40), stride=st.integers(1, 8))
def test_every_raw_row_is_seen_by_exactly_the_latent_frame_that_covers_it(frames: int, stride: int) -> None:
    seen = rows_of(range(frames), stride)
    assert set(seen[0].tolist()) == {0}
    assert seen[1:].flatten().tolist() == list(range(1, stride * (frames - 1) + 1))


def test_the_last_row_of_a_latent_frame_is_its_own_frames() -> None:
    """Seed E's windows end a frame early: the action of frame 4 i itself is not seen there."""
    assert rows_of(range(3), 4).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_more_history_repeats_the_first_row_before_the_clip() -> None:
    assert rows_of(range(1, 2), 4, history=3).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]]


def test_a_part_of_a_video_sees_what_the_whole_sees_there() -> None:
    whole = rows_of(range(9), 4, history=2)
    assert rows_of(range(5, 9), 4, history=2).tolist() == whole[5:].tolist()


def test_aligning_takes_the_rows_and_refuses_another_number_of_them() -> None:
    actions = torch.arange(9.0)[None, :, None].expand(2, 9, 3)
    assert aligned(actions, 4)[1, :, :, 0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(ActionError, match=r"8 rows of actions, but a clip has 1 mod 4"):
        aligned(actions[:, :8], 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("W", "S", "A", "D", "mouse_dx", "mouse_dy")}, "the same keys in another order"),
        ({"kinds": ("key",) * 6}, "kinds of the actions"),
        ({"offset": 0}, "offset of the actions"),
    ],
)
def test_other_columns_than_those_trained_on_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        require_same(ACTIONS, ACTIONS.model_copy(update=change), "data/latents")
    require_same(ACTIONS, ActionFacts.model_validate(ACTIONS.model_dump()), "data/latents")


# ---- trajectories -------------------------------------------------------------------------------------------------


def test_a_trajectory_holds_each_part_for_its_frames() -> None:
    rows = trajectory("w*2, A+D*1,none*1,wd*1,mouse_dx=-0.5", ACTIONS)
    assert rows[:, :4].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert rows[:, 4].tolist() == [0, 0, 0, 0, 0, -0.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Q*3", "unknown key 'Q'"),
        ("W*", "is no number of frames"),
        ("W*0", "is no number of frames"),
        ("W*x", "is no number of frames"),
        ("W*99999999", "is no number of frames"),
        ("", "part 1 names no key"),
        ("W*5,,A*2", "part 2 names no key"),
        ("mouse_dx=2*3", "outside"),
        ("mouse_dx=nan*3", "outside"),
        ("mouse_dx=a*3", "is no number for mouse_dx"),
        ("W+*3", "unknown key ''"),
    ],
)
def test_a_trajectory_that_cannot_be_read_names_its_part(text: str, words: str) -> None:
    with pytest.raises(ActionError, match=words):
        trajectory(text, ACTIONS)


def test_random_actions_never_hold_opposites_and_are_a_function_of_their_seed() -> None:
    held = drawn(ACTIONS, 500, seed=3)
    assert not (held[:, 0] * held[:, 2]).any() and not (held[:, 1] * held[:, 3]).any()
    assert (held == drawn(ACTIONS, 500, seed=3)).all() and (held != drawn(ACTIONS, 500, seed=4)).any()
    assert np.abs(held).max() <= 1 and {tuple(row) for row in held[:, :4].tolist()} >= {(0, 0, 0, 0), (1, 0, 0, 0)}


def test_forward_holds_the_first_key() -> None:
    assert forward(ACTIONS, 3).tolist() == [[1, 0, 0, 0, 0, 0]] * 3


# ---- logs ---------------------------------------------------------------------------------------------------------


def log(folder: Path, text: str) -> np.ndarray:
    path = folder / "log.csv"
    path.write_text(text)
    return read_log(path, ACTIONS, RATE)


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    held = drawn(ACTIONS, 40, seed=1)
    write_log(tmp_path / "a.csv", held, ACTIONS, RATE)
    assert (read_log(tmp_path / "a.csv", ACTIONS, RATE) == held).all()


def test_columns_are_found_by_name_whatever_their_order_and_absent_ones_are_zero(tmp_path: Path) -> None:
    assert log(tmp_path, "d,frame,w\n1,0,0\n0,1,1\n").tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_a_log_of_keys_holds_them_at_their_frames(tmp_path: Path) -> None:
    rows = log(tmp_path, "key,time,frame\nW,0.125,1\nA,0.125,1\nW,0.25,2\n")
    assert rows[:, :2].tolist() == [[0, 0], [1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frame,W\n0,1\n2,1\n", r"log.csv:3: frame 2 follows 0: a gap"),
        ("frame,W\n3,1\n4,1\n", r"log.csv:2: frame 3 is the first: a gap"),
        ("frame,time,W\n0,0,1\n1,0.125,1\n2,0.5,1\n3,0.625,1\n4,0.75,1\n", r"log.csv:4: frame 2 comes 0.375 s after"),
        ("frame,time,W\n0,1,1\n1,0.875,1\n", r"log.csv:3: frame 1 comes before frame 0"),
        ("frame;W\n0;1\n", r"parted by commas"),
        ("frame,W\n0,1\n0,1\n", r"log.csv:3: frame 0 comes twice or out of order"),
        ("frame,W,Q\n0,1,1\n", r"log.csv:1: unknown column 'q'"),
        ("frame,W\n0,2\n", r"log.csv:2: '2': W is 2, outside \[0, 1\]"),
        ("frame,W\n0,yes\n", r"log.csv:2: 'yes': 'yes' is no number for W"),
        ("frame,W\n0\n", r"log.csv:2: 1 values for 2 columns"),
        ("frame,W\nx,1\n", r"log.csv:2: frame 'x' is no whole number"),
        ("W,A\n1,0\n", r"log.csv:1: columns w, a; it needs each once, parted by commas, and `frame` among them"),
        ("frame,W\n", r"no line of actions"),
        ("", r"no line of actions"),
        ("frame,time,W\n0,0.0,1\n1,0.04,1\n2,0.08,1\n", r"a log at 25 frames per second, the network makes 8"),
        ("key,time,frame\nQ,0.0,0\n", r"log.csv:2: 'Q': unknown key 'Q'"),
        ("frame,time,W\n0,zero,1\n", r"log.csv:2: time 'zero' is no number of seconds"),
    ],
)
def test_a_log_that_cannot_be_used_says_where_and_why(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ActionError, match=words):
        log(tmp_path, text)


@given(st.lists(st.floats(-0.03, 0.03), min_size=1, max_size=40), st.sampled_from([2, 6]))
def test_a_log_whose_clock_shakes_is_of_its_rate_all_the_same(shakes: list[float], digits: int) -> None:
    times = [round(100 + frame / RATE + shake, digits) for frame, shake in enumerate([0.0, *shakes, 0.0])]
    text = "frame,time,W\n" + "".join(f"{frame},{time},1\n" for frame, time in enumerate(times))
    with tempfile.TemporaryDirectory() as folder:
        assert len(log(Path(folder), text)) == len(times)


def test_a_log_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="No such file"):
        read_log(tmp_path / "none.csv", ACTIONS, RATE)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ActionError, match="no csv in UTF-8"):
        read_log(tmp_path / "bytes.csv", ACTIONS, RATE)
