"""The record of a run: there before the first step, complete at the end or at a crash, and rendered into LOG.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import stage
from pipelines.training import journal
from pipelines.training.loop import train
from pipelines.training.record import baseline, decision
from pipelines.training.run import Run
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
    assert dropped == {"verdict": "drop", "because": "psnr 18 >= 20: fail", "by": "gates"}
    assert decision({"psnr": 30.0})["verdict"] == "open"


def test_without_gates_the_baselines_decide() -> None:
    better = baseline("explained", 0.83, ">", 0.0, "predicting nothing")
    worse = baseline("masked_error_share", 1.2, "<", 1.0, "copying the mean")
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


def test_an_identical_run_leaves_an_identical_checkpoint(tmp_path: Path) -> None:
    def folder(name: str) -> dict[str, bytes]:
        run(tmp_path / name, params(steps=6))
        out = tmp_path / name / "out"
        return {
            path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
        }

    assert folder("one") == folder("two")
