"""What goes wrong with a two-node training under Slurm, one thing after the other, and what was lost by it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from benchmarks.cluster import trainee
from benchmarks.cluster.slurm import Cluster
from benchmarks.cluster.training import PATIENCE, PEER_SECONDS, Row, Training

REEL = (sys.executable, "-m", "dagster_project.cli", "run", "train")
SBATCH = """#!/bin/bash
"{sbatch}" "$@" > /dev/null
kill -9 $PPID
"""
"""Stands before sbatch: the job is submitted, and the launcher dies before it hears so."""


def judged(training: Training, fault: str, happened: str, reference: str, code: int, most_jobs: int = 1) -> Row:
    """The row of a training that has ended: equal bits, no second submission, nothing left."""
    troubles = []
    if code:
        troubles.append(f"exit {code}")
    if trainee.bits(training.root) != reference:
        troubles.append(f"other bits: {trainee.bits(training.root)}")
    if len(training.numbers()) > most_jobs:
        troubles.append(f"{len(training.numbers())} jobs")
    training.cluster.wait_for(lambda: not training.processes(), "the last process to go", 30)
    lost = "; ".join(troubles) or "nothing: the bits of the run that nobody touched"
    return Row(fault, happened, lost, not troubles)


# ---- the faults -----------------------------------------------------------------------------------------------------


def untouched(cluster: Cluster, reference: str) -> Row:
    """Through Slurm on two nodes, and nothing happens; with what Slurm itself adds."""
    training = Training(cluster, "untouched")
    began = time.monotonic()
    code = training.run()
    took = time.monotonic() - began
    stage = json.loads((training.root / "metrics" / "train.json").read_text())["seconds"]
    text = f"two nodes by Slurm, {took:.1f} s, of which the stage's own {stage:.1f}"
    return judged(training, "none", text, reference, code)


def preempted(cluster: Cluster, reference: str) -> Row:
    """A job of higher priority takes both nodes for some seconds."""
    training = Training(cluster, "preempted")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    script = f"--output={cluster.folder}/high.log"
    cluster.say("sbatch", "-p", "high", "-N2", "--exclusive", script, "--wrap", "sleep 5")
    code = running.wait(PATIENCE)
    at = ", ".join(map(str, training.starts()))
    return judged(
        training, "preempted by a job of higher priority", f"saved, requeued, went on at step {at}", reference, code
    )


def out_of_time(cluster: Cluster, reference: str) -> Row:
    """The job's time is over before the training is."""
    training = Training(cluster, "time", time="2")
    text = (training.root / "launch.yaml").read_text().replace("warning_seconds: 30", "warning_seconds: 15")
    (training.root / "launch.yaml").write_text(text)
    slow = (training.root / "params.yaml").read_text().replace("pause_seconds: 0.2", "pause_seconds: 2")
    (training.root / "params.yaml").write_text(slow)  # no part of what is compared
    code = training.run()
    at = ", ".join(map(str, training.starts()))
    row = judged(
        training,
        "time limit (2 minutes, warned 15 s before)",
        f"saved, requeued, went on at step {at}",
        reference,
        code,
    )
    return row if training.starts() else Row(row.fault, "was never warned", "not tried", False)


def cancelled(cluster: Cluster, reference: str) -> Row:
    """Ctrl-C; then the same command."""
    training = Training(cluster, "cancelled")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    began = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    running.wait(PATIENCE)
    took = time.monotonic() - began
    training.wait(lambda: not training.processes(), "the last process to go", 20)
    is_gone = training.state() not in ("RUNNING", "PENDING", "COMPLETING")
    code = training.run() if is_gone else 1
    text = (
        f"saved and gone after {took:.1f} s, no process left; the same command went on at step {training.starts()[-1]}"
    )
    return judged(training, "ctrl-C", text, reference, code, most_jobs=2)


def orphaned(cluster: Cluster, reference: str) -> Row:
    """kill -9 of `reel run`: its supervisor stops DVC, the job goes on, the next start takes it up."""
    training = Training(cluster, "orphaned")
    running = training.start(REEL)
    training.wait(lambda: training.is_at(10), "step 10")
    running.kill()
    running.wait()
    training.wait(lambda: not any_launcher(training), "the launcher to leave", 60)
    state = training.state()
    code = training.run()
    text = f"the job stayed {state.lower()}; `dvc repro` took it up, one submission"
    return judged(training, "kill -9 of `reel run`", text, reference, code)


def any_launcher(training: Training) -> bool:
    """Whether a launcher or DVC runs in the project."""
    for pid in training.processes():
        try:
            if "pipelines.launch" in " ".join(psutil.Process(pid).cmdline()):
                return True
        except psutil.Error:
            continue
    return False


def launcher_killed(cluster: Cluster, reference: str) -> Row:
    """kill -9 of the launcher itself, while the job runs."""
    training = Training(cluster, "launcher")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    for pid in training.processes():
        if "pipelines.launch" in " ".join(psutil.Process(pid).cmdline()):
            os.kill(pid, signal.SIGKILL)
    running.wait(PATIENCE)
    code = training.run()
    return judged(
        training, "kill -9 of the launcher", "the same command took the job up, one submission", reference, code
    )


def unheard(cluster: Cluster, reference: str) -> Row:
    """The launcher dies between the submission and the note of the job's number."""
    training = Training(cluster, "unheard")
    folder = cluster.folder / "before"
    folder.mkdir(exist_ok=True)
    found = subprocess.run(["which", "sbatch"], env=cluster.environment, capture_output=True, text=True, check=True)
    (folder / "sbatch").write_text(SBATCH.format(sbatch=found.stdout.strip()))
    (folder / "sbatch").chmod(0o755)
    path = training.environment["PATH"]
    first, _, rest = path.partition(os.pathsep)
    training.start(PATH=os.pathsep.join([first, str(folder), rest])).wait(PATIENCE)
    code = training.run()
    text = "found by the attempt's name in the queue; one submission"
    return judged(training, "launcher dead between sbatch and its answer", text, reference, code)


def rank_killed(cluster: Cluster, reference: str) -> Row:
    """kill -9 of one rank, as the system does when memory is out."""
    training = Training(cluster, "rank")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    ranks = [pid for pid in training.processes() if "slurm.rank" in " ".join(psutil.Process(pid).cmdline())]
    os.kill(max(ranks), signal.SIGKILL)
    code = running.wait(PATIENCE)
    text = f"the others ended, requeued, went on at step {', '.join(map(str, training.starts()))}"
    return judged(training, "kill -9 of one rank", text, reference, code)


def second_launcher(cluster: Cluster, reference: str) -> Row:
    """The same stage started twice at once."""
    training = Training(cluster, "twice")
    running = training.start()
    training.wait(lambda: bool(training.numbers()), "the job")
    words = trainee.CMD.split()
    environment = {name: value for name, value in training.environment.items() if name != "PYTHONPATH"}
    second = subprocess.run(
        [sys.executable, *words[1:]], cwd=training.root, env=environment, capture_output=True, text=True, check=False
    )
    code = running.wait(PATIENCE) or int("is being written by" not in second.stderr)
    return judged(training, "a second launcher", "refused, naming the first; one submission", reference, code)


def cut_off(cluster: Cluster, reference: str) -> Row:
    """One host's cable is pulled while it trains, and plugged in again."""
    assert cluster.network is not None
    training = Training(cluster, "cut")
    running = training.start()
    training.wait(lambda: training.is_at(10), "step 10")
    began = time.monotonic()
    cluster.network.cut(2)
    try:
        training.wait(lambda: "has lost the others" in training.text(), "the reason", PEER_SECONDS * 3 + 30)
        took = time.monotonic() - began
        training.wait(lambda: training.state() != "RUNNING", "the job to end", 120)
        ended = time.monotonic() - began
    finally:
        cluster.network.cut(2, is_off=False)
    code = running.wait(PATIENCE)
    at = training.starts()[-1] if training.starts() else 0
    text = (
        f"said so after {took:.0f} s (REEL_PEER_SECONDS={PEER_SECONDS}), requeued after {ended:.0f} s, went on at {at}"
    )
    return judged(training, "one of two hosts cut off from the network", text, reference, code)


FAULTS: tuple[Callable[[Cluster, str], Row], ...] = (
    untouched,
    preempted,
    out_of_time,
    cancelled,
    orphaned,
    launcher_killed,
    unheard,
    rank_killed,
    second_launcher,
    cut_off,
)
