"""Answers of a real Slurm (22.05, recorded by `make cluster-test`'s cluster), as they are read."""

from __future__ import annotations

import pytest

from pipelines.slurm import queue

SQUEUE = """\
4|RUNNING|None|n[1-2]|2026-11-28T01:45:21|reel-train-4bc0d41e5966|reel:38fe5c7c372a:train:72312910e3e81323
5|PENDING|Resources||2026-11-28T01:45:30|wrap|(null)
2|COMPLETING|None|n1|2026-11-28T02:03:35|reel-train-0a|a|b
"""
SCONTROL = (
    "JobId=1 JobName=reel-toy-abc UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 "
    "Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 "
    "Reboot=0 ExitCode=0:0 RunTime=00:00:02 TimeLimit=00:05:00 TimeMin=N/A SubmitTime=2026-11-28T01:36:15 "
    "EligibleTime=2026-11-28T01:36:15 AccrueTime=2026-11-28T01:36:15 StartTime=2026-11-28T01:36:15 "
    "EndTime=2026-11-28T01:41:15 Deadline=N/A Partition=low AllocNode:Sid=localhost:16067 NodeList=n[1-2] BatchHost=n1 "
    "NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=2,node=2,billing=2 Socks/Node=* "
    "NtasksPerN:B:S:C=1:0:*:* Command=/tmp/my project/j.sh WorkDir=/tmp/my project Comment=reel:p:toy:k  Power= "
)


def test_a_queue_is_read_and_its_words_are_told() -> None:
    running, waiting, ending = queue.read_queue(SQUEUE)
    assert running.told() == "job 4 is running on n[1-2]" and running.is_live
    assert waiting.told() == "job 5 is pending (Resources)" and waiting.is_live
    assert ending.is_live and ending.comment == "a|b"
    assert not queue.Job("6", "COMPLETED").is_live and not queue.Job("7", "NODE_FAIL").is_live
    assert queue.read_queue("") == []


def test_what_the_controller_knows_is_read_with_spaces_and_signs_of_equality_in_it() -> None:
    facts = queue.read_facts(SCONTROL)
    assert (facts["JobId"], facts["JobState"], facts["EndTime"]) == ("1", "RUNNING", "2026-11-28T01:41:15")
    assert facts["WorkDir"] == "/tmp/my project" and facts["TRES"] == "cpu=2,node=2,billing=2"
    assert facts["Comment"] == "reel:p:toy:k" and facts["Power"] == ""


@pytest.mark.parametrize(("text", "gib"), [("2097152K", 2.0), ("512M", 0.5), ("3G", 3.0), ("0", 0.0), ("", None)])
def test_memory_is_read_in_its_unit(text: str, gib: float | None) -> None:
    assert queue.gib(text) == gib
