"""The record of a run: there before the first step, complete at the end or at a crash, and rendered into LOG.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines import journal, stage
from pipelines.record import baseline, decision, recorded
from pipelines.training import checkpoint
from pipelines.training.loop import train
from pipelines.training.run import Run
from tests.data.sample_shards import write_latents
from tests.training.toy import Points, Regression, params, run

GATE = {"name": "psnr", "value": 18.0, "threshold": 20.0, "comparison": ">=", "verdict": "fail", "reason": "dB"}


def record(folder: Path) -> dict:
    [path] = (folder / ".work").rglob(journal.FILE)
    return json.loads(path.read_text())


class Curious(Regression):
    """Looks at its own record at the first step."""

    def __init__(self, noise: float, folder: Path, error: BaseException | None = None) -> None:
        super().__init__(noise)
        self.folder, self.error, self.found = folder, error, {}

    def losses(self, batch, step):
        self.found = self.found or record(self.folder)
        if self.error is not None and step == 5:
            raise self.error
        return super().losses(batch, step)


@pytest.mark.costly
def test_the_record_is_written_before_the_first_step_and_completed_at_the_end(tmp_path: Path) -> None:
    objective, _ = run(tmp_path, params(steps=4), lambda noise: Curious(noise, tmp_path))
    before, after = objective.found, record(tmp_path)  # type: ignore[attr-defined]
    assert before["status"] == "running" and before["header"]["ended_at"] is None and "results" not in before
    assert before["params"]["training"]["steps"] == 4 and before["runtime"]["batch_size"] == 8
    assert before["model"]["trained"] == {"net": {"class": "Net", "parameters": 93}} and before["model"]["frozen"] == {}
    assert after["status"] == "finished" and after["header"]["ended_at"] and after["results"]["score"] == 1.0
    assert after["runtime"]["step"] == 4 and after["runtime"]["throughput/samples_per_second"] > 0
    assert after["results"]["curves"].endswith("training.csv")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("boom"), "failed"), (stage.Stopped("asked to stop"), "stopped")]
)
def test_a_crash_completes_the_record(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)):
        run(tmp_path, params(steps=8), lambda noise: Curious(noise, tmp_path, error))
    found = record(tmp_path)
    assert found["status"] == status and str(error) in found["error"] and found["runtime"]["step"] == 5
    run(tmp_path, params(steps=8))
    again = record(tmp_path)
    assert again["status"] == "finished" and again["error"] is None and len(again["header"]["resumed_at"]) == 1
    assert again["header"]["began_at"] == found["header"]["began_at"] and again["runtime"]["resumes"] == 1


def test_a_record_that_cannot_be_written_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Run.open(params(), {}, out=tmp_path / "out", metrics=tmp_path / "m.json", plots=tmp_path / "plots")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(started.experiment, "end", full)
    with pytest.raises(stage.StageError, match="loss of net is"):
        train(Regression(0.1, broken_at=2), Points(), started)


def test_gates_decide_and_without_gates_nobody_did() -> None:
    passed = {**GATE, "value": 30.0, "verdict": "pass"}
    assert decision({"gates": [passed]})["verdict"] == "keep"
    dropped = decision({"gates": [passed, GATE], "baselines": [passed]})
    assert dropped == {"verdict": "drop", "because": "psnr 18 >= 20: fail", "by": "gates and baselines"}
    assert decision({"psnr": 30.0})["verdict"] == "open"


def test_without_gates_the_baselines_decide() -> None:
    better = baseline("explained", 0.83, ">", 0.0, "predicting nothing", 8)
    worse = baseline("masked_error_share", 1.2, "<", 1.0, "copying the mean", 8)
    kept = {"verdict": "keep", "because": "explained 0.83 > 0: pass", "by": "baselines"}
    assert decision({"baselines": [better]}) == kept
    assert decision({"baselines": [better, worse]})["because"] == "masked_error_share 1.2 < 1: fail"


def test_the_log_holds_every_run_once_and_keeps_the_rest_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LOG.md").write_text("# Log\n\nBy hand.\n")
    run(tmp_path, params(steps=4))
    assert journal.main([]) == 0 and journal.main([]) == 0
    text = (tmp_path / "LOG.md").read_text()
    [run_id] = journal._entries(text)
    assert text.startswith("# Log\n\nBy hand.\n") and text.count(run_id) == 1 and text.count(journal.BEGIN) == 1
    for word in ("finished", "4 of 4 steps of 8", "trains net (Net, 93 weights)", "score 1", "**open**"):
        assert word in text
    assert str(tmp_path) not in text


@pytest.mark.costly
def test_a_person_overrules_with_a_reason_and_the_record_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, params(steps=4))
    assert journal.main(["--decide", "out", "drop"]) == 2 and "--because" in capsys.readouterr().err
    assert journal.main(["--decide", "nothing", "drop", "--because", "x"]) == 2
    assert journal.main(["--decide", "out", "drop", "--because", "too blurred"]) == 0
    line = "- decision: **drop**, too blurred (a person, "
    assert line in (tmp_path / "LOG.md").read_text()
    run(tmp_path, params(steps=5))  # the same run, longer: the person's word stands
    assert journal.main([]) == 0 and line in (tmp_path / "LOG.md").read_text()
    for path in tmp_path.rglob(journal.FILE):
        path.unlink()
    run(tmp_path, params(steps=4, max_grad_norm=0.5))
    assert journal.main([]) == 0
    text = (tmp_path / "LOG.md").read_text()
    assert line in text and len(journal._entries(text)) == 3  # of 4 steps, of 5, and of another clipping
    run(tmp_path, params(steps=6))  # its record is made anew, without the decision: LOG.md still holds it
    assert journal.main([]) == 0 and line in (tmp_path / "LOG.md").read_text()


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    run(tmp_path, params(steps=4))
    [path] = tmp_path.rglob(journal.FILE)
    path.write_text(json.dumps({**record(tmp_path), "status": "running", "pid": 2**22 + 1}))
    [(_, found)] = journal.read_records(tmp_path / ".work")
    assert found["status"] == "interrupted"


@pytest.mark.costly
def test_an_identical_run_leaves_an_identical_checkpoint(tmp_path: Path) -> None:
    def folder(name: str) -> dict[str, bytes]:
        run(tmp_path / name, params(steps=6))
        out = tmp_path / name / "out"
        return {
            path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
        }

    assert folder("one") == folder("two")


# ---- every stage -----------------------------------------------------------------------------------------------------

PARAMS = """
from pipelines.params import Params, Whole


class ProbeParams(Params):
    num_classes: Whole
    taus: list[float] | None
    fails: str | None
"""
STAGE = '''
import json
from pathlib import Path

from pipelines import stage
from probing.params import ProbeParams


def probe(params: ProbeParams, latents: Path, encoder: Path, out: Path, metrics: Path) -> None:
    """Looks at its own record, then does what it is told."""
    records = [json.loads(path.read_text()) for path in Path(".work/probe").rglob("record.json")]
    [mine] = [one for one in records if one["status"] == "running"]
    stage.write_json(out / "seen.json", mine)
    if params.fails == "stop":
        raise stage.Stopped("asked to stop")
    if params.fails is not None:
        raise RuntimeError(params.fails)
    gate = {"name": "gain", "value": 3.0, "comparison": ">=", "threshold": 2.0, "verdict": "pass", "reason": "x"}
    stage.write_metrics(metrics, {"gain": 3.0, "gates": [gate]})
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stage ``probe`` knows nothing of records: a module, its section, latents and a checkpoint."""
    (tmp_path / "probing").mkdir()
    (tmp_path / "probing/params.py").write_text(PARAMS)
    (tmp_path / "probing/stages.py").write_text(STAGE)
    write_latents(tmp_path / "data/latents")
    (tmp_path / "checkpoints/encoder").mkdir(parents=True)
    checkpoint.write_record(
        tmp_path / "checkpoints/encoder", {"stage": "encoder", "step": 1, "inputs": {}, "code": {}, "results": {}}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def probe(project: Path, **changes: object) -> int:
    """Run the stage as the launcher does, in a process of its own; its exit code."""
    values = {"num_classes": 4, "taus": None, "fails": None} | changes
    (project / "params.yaml").write_text(json.dumps({"probe": values}))
    words = ["--params", "probe", "--latents", "data/latents", "--encoder", "checkpoints/encoder", "--out", "out"]
    command = [sys.executable, "-m", "pipelines", "probing.stages", "probe", *words, "--metrics", "metrics.json"]
    path = os.pathsep.join([str(project), str(Path(pipelines.__file__).parents[1])])
    return subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def test_a_stage_that_knows_nothing_of_records_has_one(project: Path) -> None:
    assert probe(project, taus=[0.1, 0.2]) == 0
    before, after = json.loads((project / "out/seen.json").read_text()), record(project)
    assert before["status"] == "running" and before["header"]["ended_at"] is None and "results" not in before
    assert before["header"]["command"][:2] == ["probing.stages", "probe"]
    latents = before["data"]["latents"]
    assert (latents["samples"], latents["splits"]) == (12, {"train": 9, "validation": 3})
    assert latents["shard_range"] == ["latents-00000.tar", "latents-00002.tar"] and latents["digest"]
    assert before["model"]["read"]["encoder"]["frozen"] is True
    chosen = before["contract"]
    assert chosen["quantiser"] == {"num_classes": 4} and chosen["temperatures"] == {"taus": [0.1, 0.2]}
    assert "autoencoder" in chosen["normalisation"]["latents.normalisation"]
    assert set(chosen["absent"]) == {"sampling", "phi"} and all(chosen["absent"].values())
    assert after["status"] == "finished" and after["results"]["gain"] == 3.0
    assert after["decision"] == {"verdict": "keep", "because": "gain 3 >= 2: pass", "by": "gates"}
    assert after["runtime"]["seconds"] >= 0 and after["runtime"]["memory/peak_gib"] > 0
    assert after["runtime"]["hardware"]["cores"] and after["runtime"]["environment"]["python"]
    assert str(project) not in json.dumps(after)


@pytest.mark.parametrize(("fails", "status"), [("boom", "failed"), ("stop", "stopped")])
def test_a_crash_completes_the_record_of_any_stage(project: Path, fails: str, status: str) -> None:
    assert probe(project, fails=fails) != 0
    found = record(project)
    assert found["status"] == status and found["header"]["ended_at"] and "results" not in found
    assert (fails in found["error"]) and found["runtime"]["seconds"] >= 0


@pytest.mark.costly
def test_the_same_run_once_more_begins_anew_and_another_has_its_own_record(project: Path) -> None:
    assert probe(project) == 0 and probe(project) == 0
    assert "resumed_at" not in record(project)["header"]
    assert probe(project, num_classes=5) == 0
    assert len(list((project / ".work").rglob(journal.FILE))) == 2
    assert journal.main([]) == 0
    text = (project / "LOG.md").read_text()
    for word in ("quantiser: num_classes 4", "temperatures: none, it has no kernel", "encoder: `checkpoints/encoder`"):
        assert word in text


def test_a_training_run_takes_the_record_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's record becomes that of the run, at its own place: one run, one record, of the same job."""
    monkeypatch.setenv("REEL_JOB_FOLDER", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    context = stage.Context("out", tmp_path / ".work/out")
    stage.enter(context)
    try:
        with recorded({}, {"out": tmp_path / "out", "metrics": tmp_path / "m.json"}):
            [generic] = tmp_path.rglob(journal.FILE)
            run(tmp_path, params(steps=4))
    finally:
        stage.enter(stage.Context())
    found = record(tmp_path)
    assert not generic.exists() and found["status"] == "finished" and found["runtime"]["step"] == 4
    assert found["results"]["score"] == 1.0 and "resumed_at" not in found["header"]
    assert found["runtime"]["job"] == "7"
