"""What a run goes on from: every row of the table in docs/training.md, compared bit by bit with a run from nothing."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import stage
from pipelines.params import Constant, Exponential, Falling, ReduceOnPlateau, Schedule, Step
from pipelines.training import resume, state
from pipelines.training.objective import LossOutput
from tests.training.toy import Regression, ToyParams, params, run

LINEAR = Falling(shape="linear", warmup_steps=1, floor=0.0)
COSINE = Falling(shape="cosine", warmup_steps=0, floor=0.1)
PLATEAU = ReduceOnPlateau(
    shape="reduce_on_plateau",
    warmup_steps=0,
    metric="validation/loss",
    smoothed_over=1,
    patience=1,
    min_change=0.0,
    factor=0.5,
    floor=0.01,
)
ANY_TOTAL: dict[str, Schedule] = {
    "constant": Constant(shape="constant", warmup_steps=3),
    "step": Step(shape="step", warmup_steps=0, every=2, factor=0.5),
    "exponential": Exponential(shape="exponential", warmup_steps=2, factor=0.9, floor=0.1),
    "plateau of a validation": PLATEAU,
}


def halved(outputs: dict[str, LossOutput]) -> dict[str, LossOutput]:
    return {name: LossOutput(one.loss * 0.5, one.sigma, one.metrics) for name, one in outputs.items()}


class OtherCode(Regression):
    """An edit of the objective."""

    def losses(self, batch: Any, step: int) -> Any:
        return halved(super().losses(batch, step))


@contextlib.contextmanager
def surrounded(**facts: Any) -> Iterator[None]:
    """A running stage of this code, started in this way."""
    token = stage._CURRENT.set(stage.Context(**facts))
    try:
        yield
    finally:
        stage._CURRENT.reset(token)


def train(folder: Path, section: ToyParams, kind: type[Regression] = Regression, **facts: Any) -> list[int]:
    """Train to the end; gives the steps that this call made."""
    steps: list[int] = []

    class Counted(kind):  # type: ignore[misc, valid-type]
        def losses(self, batch: Any, step: int) -> Any:
            steps.append(step)
            return super().losses(batch, step)

    with surrounded(**facts):
        run(folder, section, Counted)
    return sorted(set(steps))


def stop(folder: Path, section: ToyParams, at: int, kind: type[Regression] = Regression, **facts: Any) -> None:
    """Train until a signal asks to stop, after ``at`` steps."""

    class Stopping(kind):  # type: ignore[misc, valid-type]
        def losses(self, batch: Any, step: int) -> Any:
            if step == at - 1:
                stage.current().stop.set()
            return super().losses(batch, step)

    with surrounded(**facts), pytest.raises(stage.Stopped):
        run(folder, section, Stopping)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the checkpoint: weights, averages, rows, record, card."""
    out = folder / "out"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def segments(folder: Path) -> list[tuple[int, str, int]]:
    record = json.loads((folder / "out" / "checkpoint.json").read_text())
    return [(part["from"], part["code"], part["steps"]) for part in record["segments"]]


def fresh(folder: Path, section: ToyParams, kind: type[Regression] = Regression, **facts: Any) -> dict[str, bytes]:
    train(folder, section, kind, **facts)
    return files(folder)


@pytest.mark.costly
def test_stopped_and_run_again_by_the_same_code_goes_on(tmp_path: Path) -> None:
    stop(tmp_path / "cut", params(steps=10, schedule=LINEAR), 5, code="a")
    assert train(tmp_path / "cut", params(steps=10, schedule=LINEAR), code="a") == [5, 6, 7, 8, 9]
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole", params(steps=10, schedule=LINEAR), code="a")


@pytest.mark.costly
def test_what_other_code_has_finished_is_never_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "cut", params(steps=6), OtherCode, code="a")
    for asked in (False, True):
        shutil.rmtree(tmp_path / "cut" / "out")
        longer = params(steps=8 + asked)
        assert len(train(tmp_path / "cut", longer, code=f"b{asked}", carry_on=asked)) == longer.training.steps
        told = "other code finished step 6 of 6, and what is finished is never gone on from"
        assert (told in capsys.readouterr().out) == (not asked)  # the second time a run of 8 steps has taken its place
        assert files(tmp_path / "cut") == fresh(tmp_path / f"whole{asked}", longer, code=f"b{asked}")


@pytest.mark.costly
def test_an_unfinished_state_of_other_code_is_found_and_left_and_both_go_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(tmp_path / "cut", params(steps=10), 5, OtherCode, code="a")
    assert train(tmp_path / "cut", params(steps=10), code="b") == list(range(10))
    said = [line for line in capsys.readouterr().out.splitlines() if "anew" in line]
    assert said == [
        "stage: begins anew and leaves step 5 of 10 trained by other code; to go on from there all the same: "
        "`reel run --continue stage` or `REEL_CONTINUE=1 dvc repro stage`"
    ]
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole b", params(steps=10), code="b")
    # the edit is taken back: the work of before is still there
    assert train(tmp_path / "cut", params(steps=10), OtherCode, code="a") == [5, 6, 7, 8, 9]
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole a", params(steps=10), OtherCode, code="a")


@pytest.mark.costly
def test_continued_by_other_code_on_request_the_checkpoint_lists_its_segments(tmp_path: Path) -> None:
    stop(tmp_path / "cut", params(steps=10), 4, OtherCode, code="a")
    stop(tmp_path / "cut", params(steps=10), 7, code="b", carry_on=True)
    assert train(tmp_path / "cut", params(steps=10), code="b") == [7, 8, 9]  # asked once, then it is this code's run
    assert segments(tmp_path / "cut") == [(0, "a", 10), (4, "b", 10)]
    card = (tmp_path / "cut" / "out" / "README.md").read_text()
    assert "steps 0 to 4 of 10: code `a`" in card and "steps 4 to 10 of 10: code `b`" in card

    class Both(Regression):  # the first four steps by the one, the others by the other: what was asked for
        def losses(self, batch: Any, step: int) -> Any:
            return halved(super().losses(batch, step)) if step < 4 else super().losses(batch, step)

    expected = fresh(tmp_path / "both", params(steps=10), Both, code="b")
    found = files(tmp_path / "cut")
    for name in expected.keys() - {"checkpoint.json", "README.md"}:
        assert found[name] == expected[name], name
    assert segments(tmp_path / "both") == [(0, "b", 10)]


@pytest.mark.costly
def test_fewer_steps_than_trained_begin_anew_and_the_longer_run_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop(tmp_path / "cut", params(steps=20), 9)
    assert train(tmp_path / "cut", params(steps=4)) == [0, 1, 2, 3]
    assert "begins anew: step 9 of 20 was trained before, and steps is now 4" in capsys.readouterr().out
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole", params(steps=4))
    train(tmp_path / "ten", params(steps=10))
    assert train(tmp_path / "ten", params(steps=4)) == [0, 1, 2, 3]
    assert files(tmp_path / "ten") == files(tmp_path / "whole")


@pytest.mark.costly
@pytest.mark.parametrize("name", ANY_TOTAL)
def test_more_steps_of_a_schedule_without_a_total_are_the_bits_of_one_run(tmp_path: Path, name: str) -> None:
    def section(steps: int) -> ToyParams:
        return params(steps=steps, schedule=ANY_TOTAL[name])

    train(tmp_path / "cut", section(7))  # logs every 3, validates every 5: step 7 is looked at only as the last
    assert train(tmp_path / "cut", section(11)) == [7, 8, 9, 10]
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole", section(11))


@pytest.mark.costly
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda schedule: schedule.shape)
def test_more_steps_of_a_falling_schedule_begin_anew_or_are_recorded_as_lengthened(
    tmp_path: Path, schedule: Schedule, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "cut", params(steps=5, schedule=schedule))
    shutil.copytree(tmp_path / "cut", tmp_path / "asked")
    assert train(tmp_path / "cut", params(steps=10, schedule=schedule)) == list(range(10))
    assert "whose learning rate depends on the number of steps; to go on from there" in capsys.readouterr().out
    assert files(tmp_path / "cut") == fresh(tmp_path / "whole", params(steps=10, schedule=schedule))
    assert train(tmp_path / "asked", params(steps=10, schedule=schedule), carry_on=True) == [5, 6, 7, 8, 9]
    assert segments(tmp_path / "asked") == [(0, "", 5), (5, "", 10)]
    assert files(tmp_path / "asked") != files(tmp_path / "whole")


def test_a_falling_schedule_of_one_network_alone_counts(tmp_path: Path) -> None:
    section = params(steps=5)
    assert resume.any_total(section.training)
    own = {"net": {"optimizer": section.training.optimizer, "schedule": LINEAR}}
    assert not resume.any_total(section.training.model_validate({**section.training.model_dump(), "per_network": own}))


@pytest.mark.costly
def test_force_trains_anew_whatever_state_is_there(tmp_path: Path) -> None:
    train(tmp_path, params(steps=6))
    expected = files(tmp_path)
    assert train(tmp_path, params(steps=6)) == []  # killed after its last state: nothing is trained twice
    assert files(tmp_path) == expected
    assert train(tmp_path, params(steps=6), anew=True) == list(range(6))
    assert files(tmp_path) == expected
    stop(tmp_path / "stopped", params(steps=6), 3)
    assert train(tmp_path / "stopped", params(steps=6), anew=True) == list(range(6))


@pytest.mark.costly
def test_a_finished_run_leaves_one_state_and_takes_the_states_of_finished_ones_with_it(tmp_path: Path) -> None:
    work = tmp_path / ".work" / "out"
    stop(tmp_path, params(steps=10, max_grad_norm=0.5), 3)
    train(tmp_path, params(steps=8, max_grad_norm=0.7))
    (next(work.iterdir()) / ".state-000000004.partial-1").mkdir()
    train(tmp_path, params(steps=8))
    kept = sorted(path.name for path in work.glob("*/*state-*"))
    assert kept == ["state-000000003", "state-000000008"]  # what is unfinished nobody else has
    assert len(list(work.glob("*/record.json"))) == 3


def test_an_error_of_the_moment_sets_no_state_aside(tmp_path: Path) -> None:
    for step in (2, 3):
        state.write(tmp_path, step, {"step": step})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(stage.StageError, match=r"Too many open files\. The state is left as it is"):
            state.newest(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert state.newest(tmp_path) == {"step": 3}
    for name in ("state.json", "state.safetensors"):  # a share that is mounted wrongly
        place = tmp_path / "state-000000003" / name
        place.rename(tmp_path / "there")
        place.symlink_to(place)
        with pytest.raises(stage.StageError, match=r"Too many levels .* remove .*state-000000003\."):
            state.newest(tmp_path)
        place.unlink()
        (tmp_path / "there").rename(place)
    assert state.newest(tmp_path) == {"step": 3}


@pytest.mark.parametrize("damage", ["{", '{"check": "x", "content": "y"}', "[]", "\x00" * 9])
def test_damage_sets_a_state_aside_and_the_one_before_counts(tmp_path: Path, damage: str) -> None:
    for step in (3, 4):
        state.write(tmp_path, step, {"step": step, "run": {}})
    (tmp_path / "state-000000004" / "state.json").write_text(damage)
    assert state.newest(tmp_path) == {"step": 3, "run": {}}
    assert [path.name for path in tmp_path.glob("broken-*")] == [f"broken-state-000000004-{os.getpid()}"]
