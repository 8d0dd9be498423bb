"""Debian's packages of Slurm, unpacked and not installed, are called by their ordinary names."""

import os
import subprocess
from pathlib import Path

from benchmarks.cluster.packages import name_programs


def _program(path: Path, says: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)


def test_programs_that_a_package_names_by_its_alternative_are_found_by_their_plain_name(tmp_path: Path) -> None:
    _program(tmp_path / "sbin" / "slurmd-wlm", "unpacked")
    name_programs(tmp_path)
    name_programs(tmp_path)
    done = subprocess.run(["slurmd"], env={"PATH": f"{tmp_path}/sbin:/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout == "unpacked\n"


def test_a_program_that_has_the_plain_name_keeps_it(tmp_path: Path) -> None:
    _program(tmp_path / "bin" / "sbatch-wlm", "other")
    _program(tmp_path / "bin" / "sbatch", "own")
    name_programs(tmp_path)
    assert not (tmp_path / "bin" / "sbatch").is_symlink()
    assert os.access(tmp_path / "bin" / "sbatch", os.X_OK)
