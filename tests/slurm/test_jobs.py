"""`reel jobs` where no cluster answers: an orphan that a note knows of is not taken for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import jobs


def test_without_a_cluster_only_a_note_of_a_job_makes_its_silence_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("REEL_LAUNCH", raising=False)
    assert jobs.main([]) == 0 and "Stages run on this machine" in capsys.readouterr().out
    note = Path(".work/train/slurm/attempt.json")
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    assert jobs.main([]) == 2 and "squeue is not on this machine" in capsys.readouterr().err
    note.unlink()
    Path("launch.yaml").write_text("target: slurm\n")
    assert jobs.main([]) == 2
