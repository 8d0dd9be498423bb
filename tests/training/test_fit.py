"""`reel fit`: measures each choice in a process of its own, touches nothing, says what does not run and why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from pipelines import stage
from pipelines.params import ParamsError
from pipelines.training import fit_blocks
from pipelines.training.fit import Trial, choices, parser, table
from tests.training.toy import ADAMW, params

ROOT = Path(__file__).parents[2]

STAGE = """
from pathlib import Path

from fittoy.params import ToyParams
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run
from tests.training import toy


def train(params: ToyParams, data: Path, out: Path, metrics: Path) -> None:
    run = Run.open(params, {"data": data}, out=out, metrics=metrics, plots=out)
    run_training(toy.Regression(), toy.Points(), run)
    Path("ended").touch()
"""
PARAMS = """
from pipelines.params import Params, Training


class ToyParams(Params):
    training: Training
"""


def test_choices_change_one_knob_at_a_time_and_keep_the_batch_whole() -> None:
    training = params(batch_size=12, micro_batch=12).training
    found = choices(training, parser().parse_args(["stage"]))
    assert found[0] == {"micro_batch": 12, "gradient_checkpointing": False, "precision": "fp32"}
    assert [row["micro_batch"] for row in found] == [12, 6, 1, 12, 12]
    assert all(sum(row[knob] != found[0][knob] for knob in row) == 1 for row in found[1:])
    given = choices(training, parser().parse_args(["stage", "--micro-batch", "4", "2", "--checkpointing", "true"]))
    assert [(row["micro_batch"], row["gradient_checkpointing"]) for row in given] == [(4, True), (2, True)]


def test_the_table_shows_what_was_measured_and_why_a_choice_failed() -> None:
    now = {"micro_batch": 4, "gradient_checkpointing": False, "precision": "fp32"}
    text = table([(now, {"peak_gib": 1.5, "step_seconds": 0.5}), (now, {"error": "out of memory at 2 GiB"})], 8)
    lines = text.splitlines()
    assert lines[1].split() == ["4", "2", "false", "fp32", "1.50", "+0.00", "0.5", "16"]
    assert lines[2].endswith("out of memory at 2 GiB") and len(lines) == 3
    half = ({**now, "micro_batch": 2}, {"peak_gib": 1.2, "step_seconds": 0.6})
    slow = ({**now, "gradient_checkpointing": True}, {"peak_gib": 1.4, "step_seconds": 0.7})
    lines = table([(now, {"peak_gib": 1.5, "step_seconds": 0.5}), slow, half], 8).splitlines()
    assert lines[3].split()[5] == "-0.30"
    assert lines[4] == "Lowest peak: micro_batch: 2 saves 0.30 GiB (20%), a step takes 1.2x."
    even = [(now, {"peak_gib": 1.5, "step_seconds": 0.5}), (half[0], {"peak_gib": 1.5, "step_seconds": 0.6})]
    assert table(even, 8).splitlines()[-1].startswith("No choice lowers the peak")


def test_blocks_are_added_one_after_the_other() -> None:
    values = {"adversarial": {"weight": 1}, "discriminator": {"width": 2}, "losses": {"kl": {"weight": 1}, "l1": None}}
    blocks = ["adversarial+discriminator", "losses.kl"]
    rows = fit_blocks.steps({"micro_batch": 4}, blocks)
    assert [row["absent"] for row in rows] == [blocks, blocks[1:], []]
    left = fit_blocks.without("coder", values, rows[1]["absent"])
    assert left["adversarial"] == {"weight": 1} and left["losses"]["kl"] is None
    assert values["losses"]["kl"] is not None, "the section itself is not touched"
    found = [{"peak_gib": peak, "step_seconds": 0.5} for peak in (1.0, 1.5, 1.75)]
    lines = [line.split() for line in fit_blocks.table("coder", blocks, found).splitlines()]
    assert lines[2] == ["+", "adversarial+discriminator", "1.50", "+0.50", "0.5"] and lines[3][3] == "+0.25"


@pytest.mark.costly
def test_what_was_held_before_the_first_step_is_not_its_peak(tmp_path: Path) -> None:
    trial = Trial("toy", 2)
    before = stage._CURRENT.set(stage.Context("toy", tmp_path, progress=trial))
    try:
        np.ones(1 << 26).sum()  # half a GiB, given back
        for done in (1, 2, 3):
            trial.report(done, 9)
        assert stage.current().stop.is_set() and 0.01 < trial.peak < psutil.Process().memory_info().rss / 2**30 + 0.25
    finally:
        stage._CURRENT.reset(before)  # what is asked to stop stays so: the next test must not hear of it


def test_a_trial_has_every_loss_at_its_whole_weight() -> None:
    late = {"weight": 1, "warmup": {"shape": "linear", "start": 40, "steps": 40}}
    values = {"losses": {"kl": late}, "adversarial": {**late, "r1": {"every": 8}}, "training": {"warmup_steps": 3}}
    tried = fit_blocks.at_full_weight(values)
    assert tried["losses"]["kl"] == {"weight": 1, "warmup": None} and tried["adversarial"]["warmup"] is None
    assert tried["training"] == {"warmup_steps": 3} and values["losses"]["kl"] is late


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("losses.gan", "coder has no such block; there are kl"),
        ("gan", "coder has no such block; there are losses"),
        ("losses.l1", r"coder.losses.l1 is null, so there is nothing to measure"),
    ],
)
def test_a_block_that_is_not_there_is_told_with_those_that_are(block: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        fit_blocks.without("coder", {"losses": {"kl": {}, "l1": None}}, [block])


@pytest.mark.costly
def test_fit_measures_a_stage_and_leaves_the_project_as_it_was(tmp_path: Path) -> None:
    package = tmp_path / "fittoy"
    package.mkdir()
    for name, text in (("__init__", ""), ("train", STAGE), ("params", PARAMS)):
        (package / f"{name}.py").write_text(text)
    (tmp_path / "data.txt").write_text("data")
    flags = "--params toy --data data.txt --out out --metrics metrics.json"
    cmd = f"python -m pipelines.launch --alone fittoy.train train {flags}"
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"toy": {"cmd": cmd}}}))
    values = params(optimizer=ADAMW).training.model_dump(mode="json")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"toy": {"training": values}}))
    before = sorted(path.name for path in tmp_path.iterdir())
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}

    def fit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.training.fit", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = fit("toy", "--micro-batch", "4", "--checkpointing", "true", "false")
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert "has no blocks to compute again" in rows[1]
    assert float(rows[2].split()[4]) > 0.05 and float(rows[2].split()[-1]) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    wrong = fit("toys")
    assert wrong.returncode == 2 and "reel fit: toys: no stage of dvc.yaml that trains; those are toy." in wrong.stderr
