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
SACCT = """\
1|COMPLETED|0:0|13|00:00.154||2|2|billing=2,cpu=2,node=2|n[1-2]
1.batch|COMPLETED|0:0|13|00:00.013|12416K|1|1|cpu=1,mem=0,node=1|n1
1.0|COMPLETED|0:0|13|00:00.141|125224K|2|2|cpu=2,mem=0,node=2|n[1-2]
"""
CANCELLED = """\
3|CANCELLED by 0|0:0|4|00:00.001||1|1|billing=1,cpu=1,node=1|n1
3.batch|CANCELLED|0:15|4|00:00.001||1|1|cpu=1,mem=0,node=1|n1
"""


def test_accounting_is_the_jobs_own_with_the_most_memory_of_its_steps() -> None:
    found = queue.summary(queue.read_accounting(SACCT))
    assert (found["state"], found["exit"], found["seconds"], found["nodes"]) == ("COMPLETED", "0:0", 13, "n[1-2]")
    assert found["peak_gib_of_a_process"] == round(125224 / 2**20, 3) and found["given"] == "billing=2,cpu=2,node=2"
    stopped = queue.summary(queue.read_accounting(CANCELLED))
    assert stopped["state"] == "CANCELLED" and "peak_gib_of_a_process" not in stopped
    assert queue.summary(queue.read_accounting("")) == {}


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
