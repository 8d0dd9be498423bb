"""Rows, diagrams and wandb: what is logged under which name, and that a resumed run is one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import stage
from pipelines.params import TrackingParams, Wandb
from pipelines.training import diagrams
from pipelines.training.tracking import Rows, read_rows
from tests.training.toy import params, run

ROWS = [
    {
        "step": step,
        "seconds": 0.5 * step,
        "loss/net": 1.0 / step,
        "loss/kl": 0.1,
        "lr/net": 1e-3,
        "grad_norm/net": 0.3,
        "loss_by_sigma/0.00-0.25": 0.2,
        "throughput/step_seconds": 0.5,
        "throughput/samples_per_second": 32.0,
        "data/wait_share": 0.01,
        "memory/peak_gib": 1.5,
    }
    for step in (1, 2, 3)
]


def test_a_row_holds_everything_the_log_promises(tmp_path: Path) -> None:
    run(tmp_path, params(steps=6))
    rows = read_rows(next((tmp_path / ".work").rglob("rows.jsonl")))
    wanted = {
        "step",
        "seconds",
        "loss/net",
        "loss/error",
        "grad_norm/net",
        "lr/net",
        "data/wait_share",
        "memory/peak_gib",
    }
    wanted |= {"throughput/samples_per_second", "throughput/step_seconds"}
    assert wanted <= rows[0].keys() and any(name.startswith("loss_by_sigma/") for name in rows[0])
    kept = read_rows(tmp_path / "out" / "metrics.jsonl")
    assert [row["loss/net"] for row in kept if "loss/net" in row] == [
        row["loss/net"] for row in rows if "loss/net" in row
    ]
    assert not any(name.startswith(("seconds", "throughput", "memory", "data/")) for row in kept for name in row)


def test_text_and_what_is_not_finite_is_no_scalar(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", 0)
    rows.write({"step": 1, "a": 1.5, "b": float("nan"), "c": "words", "d": True})  # type: ignore[dict-item]
    assert read_rows(tmp_path / "rows.jsonl") == [{"step": 1, "a": 1.5}]


@pytest.mark.costly
def test_diagrams_have_the_names_of_the_guide_and_the_summary_its_numbers(tmp_path: Path) -> None:
    diagrams.draw(ROWS, "toy", tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    singles = {"training_losses.png", "kl_loss.png", "learning_rates.png", "batch_times.png"}
    assert files == {*singles, "training_overview.png"}
    text = "\n".join(diagrams.summary(ROWS, "toy"))
    assert "toy: 3 steps in 2 s" in text and "loss/net: first 1, smallest 0.3333, last 0.3333" in text
    assert "median 0.500 s" in text and "peak memory, GiB: at most 1.5" in text
    assert diagrams.summary([], "toy") == ["toy: no rows"]


@pytest.mark.slow
def test_wandb_continues_the_same_run_offline_and_takes_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.data.validation_clips import write
    from pipelines.training.tracking import WandbRun
    from tests.data.test_validation_clips import clip

    monkeypatch.chdir(tmp_path)
    ids, logged = [], []
    begin, log = WandbRun.__init__, WandbRun.log

    def begun(self, *given):
        begin(self, *given)
        ids.append(self.run.id)

    monkeypatch.setattr(WandbRun, "__init__", begun)
    monkeypatch.setattr(WandbRun, "log", lambda self, row: (logged.append(dict(row)), log(self, row)))
    context = stage.Context(tracking=TrackingParams(wandb=Wandb(project="test", mode="offline")))
    token = stage._CURRENT.set(context)
    try:
        run(tmp_path, params(steps=4))
        _, again = run(tmp_path, params(steps=8))
        extra = WandbRun(context.tracking.wandb, "toy", "toy-clip", {}, tmp_path / ".work/wandb")  # type: ignore[arg-type]
        extra.clip("validation/clips", write(tmp_path / "clips", 3, [clip(60)], ["x"], 8.0), 3)
        extra.close()
    finally:
        stage._CURRENT.reset(token)
    assert ids[0] == ids[1] and again.first_id in ids[0]
    assert [row["step"] for row in logged if "loss/net" in row][-1] == 8
    assert len(list(tmp_path.rglob("offline-run-*"))) >= 2 and list(tmp_path.rglob("*.mp4"))[1:]
    assert json.dumps(logged)


TRAINED = """
import json, os, signal, sys
from pathlib import Path
from pipelines.params import Wandb
from pipelines.training.tracking import WandbRun
first, last, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
row = lambda step: {"step": step, "loss/net": 1.0 / step}
before = [row(step) for step in range(1, first)]
run = WandbRun(Wandb(project="test", mode="offline"), "toy", "toy-1", {}, Path("wandb"), before)
for step in range(first, last + 1):
    run.log(row(step))
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
run.close()
"""


def rows_of_wandb(file: Path) -> list[dict[str, Any]]:
    """The rows in a ``.wandb`` file: records of protobuf in blocks of 32 KiB, each with 7 bytes in front."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            items = Record.FromString(whole).history.item
            found = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            rows, whole = [*rows, found] if found else rows, b""
    return rows


@pytest.mark.slow
def test_wandb_offline_has_every_row_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    for first, last, end, status in ((1, 6, "killed", -9), (5, 9, "ended", 0)):
        command = [sys.executable, "-c", TRAINED, str(first), str(last), end]
        mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        env = {**mine, "PYTHONPATH": str(Path(__file__).parents[2])}  # a service of its own
        (tmp_path / end).mkdir()  # wandb names a folder of its own by the second
        assert subprocess.run(command, cwd=tmp_path / end, env=env, check=False).returncode == status
    [file] = (tmp_path / "ended").rglob("*.wandb")
    rows = rows_of_wandb(file)
    assert [(row["_step"], row["loss/net"]) for row in rows] == [(step, 1.0 / step) for step in range(1, 10)]
