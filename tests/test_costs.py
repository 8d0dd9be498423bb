"""`make test` stays quick: a test that is not marked costly and takes too long is named by the run that checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
TESTS = """
import subprocess, sys
import pytest

@pytest.fixture(scope="module")
def shared():
    sum(range(15_000_000))

@pytest.mark.costly
def test_marked():
    sum(range(15_000_000))

def test_in_a_process():
    subprocess.run([sys.executable, "-c", "sum(range(15_000_000))"], check=True)

def test_on_its_own():
    sum(range(15_000_000))

def test_beside_others(shared):
    pass
"""


@pytest.mark.costly
@pytest.mark.parametrize("processes", [[], ["-n", "1"]])
def test_what_is_not_quick_and_not_marked_is_named_and_fails_nothing(tmp_path: Path, processes: list[str]) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = costly\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.costs", "-q", *processes, "--quick-within"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}

    def run(limit: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, limit], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("0.1")
    named = [line.split(": ")[0].split("::")[1] for line in done.stdout.splitlines() if line.startswith("NOT QUICK")]
    assert named == ["test_in_a_process", "test_on_its_own"] and done.returncode == 0, done.stdout
    if not processes:
        assert "NOT QUICK" not in run("1000").stdout
