"""Rows, diagrams and wandb: what is logged under which name, and that a resumed run is one run."""

from __future__ import annotations

import json
from pathlib import Path

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

    def begun(self, tracking, name, run_id, config, folder):
        begin(self, tracking, name, run_id, config, folder)
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
