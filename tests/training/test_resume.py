"""Kills, damage and a full disk, in small; `python -m benchmarks.resume` writes the table of docs/reliability.md."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import resume


@pytest.mark.costly
def test_a_run_killed_at_random_instants_ends_with_the_same_bits_and_damage_is_noticed(tmp_path: Path) -> None:
    kills = resume.kills(tmp_path, count=2, seed=1)
    assert len(kills) == 2 and all(kill.same for kill in kills)
    dice, trained = random.Random(0), resume.two_states(tmp_path / "damaged")
    for kind in resume.DAMAGES:
        for name in resume.FILES:
            assert resume.damaged(trained, kind, name, dice), (kind, name)


def test_a_limit_on_file_sizes_stops_a_run_in_one_line_and_it_continues_without(tmp_path: Path) -> None:
    result = resume.out_of_space(tmp_path / "limited", by_limit=True)
    assert result["code"] == 2 and "ulimit -f" in result["said"][0]
    assert result["kept"] == 10 and result["partial"] == 0 and result["same"]


@pytest.mark.slow
def test_a_full_disk_stops_a_run_in_one_line_and_it_continues_when_there_is_room(tmp_path: Path) -> None:
    try:
        with resume.small_disk(tmp_path / "full"):
            result = resume.out_of_space(tmp_path / "full", by_limit=False)
    except PermissionError as error:
        pytest.skip(str(error))  # mounting a small disk needs root; the file limit above is tested everywhere
    assert result["code"] == 2 and "make room" in result["said"][0]
    assert result["kept"] == 10 and result["partial"] == 0 and result["same"]
