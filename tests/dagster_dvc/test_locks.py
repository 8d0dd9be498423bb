"""Entries of DVC's lock that processes of here have left are removed; those that may be another host's are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dagster_dvc import locks
from dagster_dvc.project import DvcProject
from dagster_dvc.running import running
from tests.dagster_dvc import toy


def left_by_the_dead(project: DvcProject) -> tuple[Path, dict[str, Any], int]:
    """DVC's file of locks, the entry in it, and the process that made it, which is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entry = {"write": {str(project.root / "work" / "numbers"): {"pid": gone.pid, "cmd": "dvc repro"}}, "read": {}}
    file = project.root / ".dvc" / "tmp" / "rwlock"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entry))
    return file, entry, gone.pid


def test_an_entry_that_may_be_of_another_host_stays_until_its_note_is_old(tmp_path: Path) -> None:
    project = DvcProject(toy.make(tmp_path / "project"))
    file, entry, gone = left_by_the_dead(project)
    note = project.scratch / "running" / "prepare.1.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"stage": "prepare", "pid": gone, "host": "another", "since": 0.0, "line": "…"}))
    assert [*locks.elsewhere(project)] == ["prepare"] and locks.release_dead(project) == 0
    assert json.loads(file.read_text()) == entry
    old = time.time() - locks.FORGOTTEN_SECONDS - 60
    os.utime(note, (old, old))
    assert locks.elsewhere(project) == {} and locks.release_dead(project) == 1
    assert json.loads(file.read_text())["write"] == {}


def test_a_launcher_of_another_host_is_told_and_its_entry_stays_while_it_counts_up(tmp_path: Path) -> None:
    """As a plain `dvc repro` there leaves it: no note of ours but the owner's, and DVC's entry, which names no host."""
    project = DvcProject(toy.make(tmp_path / "project"))
    left_by_the_dead(project)
    note = project.root / ".work" / "prepare" / "owner.json"
    note.parent.mkdir(parents=True)
    owner = {"pid": 7, "host": "far", "user": "ana", "since": "2026-11-28 09:00:00+00:00", "beats": 3}
    note.write_text(json.dumps(owner))
    told = running(project)["prepare"]
    assert (told["pid"], told["line"]) == (7, "on far of ana; wait for it, or stop it there")
    assert locks.release_dead(project) == 0
    old = time.time() - locks.SILENT_SECONDS - 60
    os.utime(note, (old, old))
    assert running(project) == {} and locks.release_dead(project) == 1
