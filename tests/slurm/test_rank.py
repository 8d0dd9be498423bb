"""What a rank is told and what it answers, and what is said of processes that are cut off."""

from __future__ import annotations

import pytest

from pipelines import peers
from pipelines.slurm.rank import FAILED, LOST, exit_code, variables
from pipelines.stage import STOPPED


def test_ranks_of_several_nodes_are_told_their_places() -> None:
    slurm = {"SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2"}
    found = variables({**slurm, "SLURM_PROCID": "9", "SLURM_LOCALID": "1"})
    assert found == {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    assert variables({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) == {}


def test_of_several_exit_codes_the_highest_is_the_cause() -> None:
    """srun returns the highest; one that stopped as asked must not end the first while it writes."""
    assert exit_code(STOPPED) == exit_code(0) == 0
    crashed, refused, lost, killed = exit_code(1), exit_code(2), exit_code(peers.LOST_CODE), 137
    assert (crashed, lost) == (FAILED, LOST)
    assert max(crashed, lost) == crashed and max(refused, lost) == refused and max(killed, lost) == killed


def test_an_error_of_a_collective_is_told_as_the_loss_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gloo = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:31")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert peers.lost(gloo) is None  # one process has nobody to lose
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(peers.SECONDS, "30")
    told = peers.lost(gloo)
    assert told is not None and told == peers.told_of()
    assert (
        told.startswith("process 1 of 2 on n1 has lost the others (Connection closed by peer [10.0.0.2]:31); ")
        and "at most 30 s" in told
    )
    assert peers.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


@pytest.mark.parametrize("stated", ["", "90", "0.5"])
def test_how_long_one_waits_is_a_fact_of_the_machine(stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.SECONDS, stated)
    assert peers.patience().total_seconds() == float(stated or peers.DEFAULT_SECONDS)


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "inf", "nan"])
def test_a_wait_that_is_no_time_is_refused(stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.SECONDS, stated)
    with pytest.raises(SystemExit, match=peers.SECONDS):
        peers.patience()
