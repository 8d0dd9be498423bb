"""A generator trained by several processes, which share its weights or are given a part of them each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.generation import anchored_flow, rectified_flow
from pipelines.training.tracking import read_rows, without_machine
from tests.generation.toy import SMALL, UNIFIED, anchored, rectified, write_classes, write_gates, write_latents
from tests.training.test_processes import launched
from tests.training.test_sharding import FSDP

SCRIPT = """
import sys
from pathlib import Path
from pipelines.processes import leave_group
from tests.generation.test_processes import train

train(Path(sys.argv[1]))
leave_group()
"""


def train(folder: Path) -> None:
    """Four steps of a toy with samples of two prompts at every second one."""
    training = {**rectified().training.model_dump(), "micro_batch": 3, "validate_every": 2}
    validation = {**SMALL["validation"], "prompts": 2}
    params = rectified(training=training, validation=validation)
    places = {"out": folder / "flow", "metrics": folder / "metrics.json", "plots": folder / "plots"}
    rectified_flow.train(params, folder.parent / "latents", **places)


UNIFIED_SCRIPT = SCRIPT.replace("import train\n", "import train_unified as train\n")


def train_unified(folder: Path) -> None:
    """Four steps in both phases of anchored flow, a clip at a time: processes draw other phases in the same step."""
    training = {**anchored().training.model_dump(), "micro_batch": 1, "batch_size": 4, "validate_every": 2}
    params = anchored(**{**UNIFIED, "training": training})
    places = {"out": folder / "flow", "metrics": folder / "metrics.json", "plots": folder / "plots"}
    given = (folder.parent / name for name in ("latents", "classes", "gates"))
    anchored_flow.train(params, *given, **places)


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, FSDP], ids=["shared", "spread"])
def test_processes_that_draw_other_phases_make_the_same_calls(tmp_path: Path, variables: dict) -> None:
    """FSDP gathers weights in every call: a call that one process leaves out would wait for ever in the others."""
    write_classes(tmp_path / "classes", write_latents(tmp_path / "latents"))
    write_gates(tmp_path / "gates")
    (tmp_path / "script.py").write_text(UNIFIED_SCRIPT)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = launched(tmp_path / "script.py", 2, tmp_path / "two", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    train_unified(tmp_path / "one")
    numbers = [json.loads((tmp_path / name / "metrics.json").read_text())["validation/loss"] for name in ("one", "two")]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-3)


def left(folder: Path) -> tuple[list[dict[str, float]], dict[str, Any], list[str]]:
    """Logged numbers, results and shown clips."""
    rows = [without_machine(row) for row in read_rows(folder / "flow" / "metrics.jsonl")]
    found = json.loads((folder / "metrics.json").read_text())
    results = {name: value for name, value in found.items() if name.startswith("validation/")}
    return rows, results, sorted(path.name for path in (folder / "flow" / "validation").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, FSDP], ids=["shared", "spread"])
def test_two_processes_train_sample_and_finish_a_generator_as_one_does(tmp_path: Path, variables: dict) -> None:
    write_latents(tmp_path / "latents")
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = launched(tmp_path / "script.py", 2, tmp_path / "two", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    train(tmp_path / "one")
    rows, results, clips = left(tmp_path / "two")
    wanted_rows, wanted, wanted_clips = left(tmp_path / "one")
    assert clips == wanted_clips == ["step-000002.mp4", "step-000002.png", "step-000004.mp4", "step-000004.png"]
    assert results == pytest.approx(wanted, rel=1e-3)
    for row, expected in zip(rows, wanted_rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
