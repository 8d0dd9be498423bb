"""What nothing goes wrong in: what a stage costs more through Slurm than here, and what `reel jobs` says of a queue."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime

import psutil

from benchmarks.cluster import trainee
from benchmarks.cluster.jobs import any_launcher, judged
from benchmarks.cluster.slurm import Cluster
from benchmarks.cluster.training import PATIENCE, Failed, Row, Training

PAIRS = 3
MOST_SECONDS, MOST_SHARE = 3.0, 0.02
"""What Slurm may add to a stage, besides the time in its queue: seconds, and a share of the stage's own time."""
LISTING = (sys.executable, "-m", "dagster_project.cli", "jobs")


# ---- overhead -------------------------------------------------------------------------------------------------------


def _queued(cluster: Cluster, number: str) -> float:
    """Seconds from submission to start, to the second, as the controller writes them."""
    facts = dict(
        word.split("=", 1) for word in cluster.say("scontrol", "show", "job", "-o", number).split() if "=" in word
    )
    submitted, started = (datetime.fromisoformat(facts[key]) for key in ("SubmitTime", "StartTime"))
    return (started - submitted).total_seconds()


def _timed(training: Training) -> tuple[float, float]:
    """(seconds of `dvc repro` from nothing, those of the stage itself)."""
    for name in ("checkpoints", "metrics", "plots", ".work"):
        shutil.rmtree(training.root / name, ignore_errors=True)
    (training.root / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(training.root / ".dvc" / "cache", ignore_errors=True)
    began = time.monotonic()
    if training.run():
        raise Failed(training.text()[-2000:])
    took = time.monotonic() - began
    return took, float(json.loads((training.root / "metrics" / "train.json").read_text())["seconds"])


def overhead(cluster: Cluster, reference: str) -> Row:
    """One process on one node through Slurm, beside the same on this machine, in pairs."""
    del reference  # of two processes
    there = Training(cluster, "overhead-slurm", nodes=1)
    here = Training(cluster, "overhead-here", nodes=1)
    (here.root / "launch.yaml").write_text("num_processes: 1\nuse_cpu: true\n")
    rounds = []
    for _ in range(PAIRS):
        local, own = _timed(here)
        took, _ = _timed(there)
        rounds.append((local, own, took, _queued(cluster, there.numbers()[-1])))
    added = [took - queued - local for local, _, took, queued in rounds]
    local, own, took, queued = (statistics.median(column) for column in zip(*rounds, strict=True))
    most = MOST_SECONDS + MOST_SHARE * local
    told = ", ".join(f"{one:.1f}" for one in added)
    text = (
        f"{statistics.median(added):.1f} s more than here ({told} in {PAIRS} pairs; at most {most:.1f}): {took:.1f} s, "
        f"of which {queued:.0f} in the queue, beside {local:.1f} s here, of which the training's own {own:.1f}"
    )
    alike = trainee.bits(here.root) == trainee.bits(there.root)
    lost = "nothing: the bits of the run on this machine" if alike else "other bits"
    return Row("none; one process, by Slurm and here", text, lost, alike and statistics.median(added) <= most)


# ---- reel jobs ------------------------------------------------------------------------------------------------------


def _listed(training: Training) -> tuple[int, str]:
    """What `reel jobs` answers in the project: its exit status, and its lines."""
    done = subprocess.run(
        LISTING, cwd=training.root, env=training.environment, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def listed(cluster: Cluster, reference: str) -> Row:
    """`reel jobs` with the job waiting, running, left by its launcher, put back into the queue, and over."""
    training = Training(cluster, "listed")
    expected: list[tuple[str, int, str]] = []

    def look(what: str, code: int, word: str) -> None:
        found, said = _listed(training)
        if found != code or word not in said:
            raise Failed(f"`reel jobs` of a job that is {what}: exit {found}: {said}")
        expected.append((what, code, said))

    first = cluster.say(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600"
    )
    training.wait(lambda: cluster.say("squeue", "-h", "-j", first, "-o", "%T") == "RUNNING", "the nodes to be taken")
    running = training.start()
    training.wait(lambda: bool(training.numbers()), "the job")
    look("waiting", 0, "is pending")
    cluster.say("scancel", first)
    training.wait(lambda: training.is_at(10), "step 10")
    look("running", 0, "is running")
    _kill_launchers(training)
    running.wait(PATIENCE)
    look("left by its launcher", 1, "nobody follows it: `reel run train` takes it up")
    cluster.say("scontrol", "requeue", training.numbers()[-1])
    training.wait(lambda: training.state() == "PENDING", "the job to wait again")
    look("put back into the queue", 1, "is pending")
    code = training.run()
    look("over", 0, "No job of this project is in the queue.")
    text = "`reel jobs` told it " + ", ".join(what for what, _, _ in expected) + f"; in its words: {expected[2][2]}"
    return judged(training, "a job that is looked at", text.replace(str(training.root), "…"), reference, code)


def _kill_launchers(training: Training) -> None:
    for pid in training.processes():
        if "pipelines.launch" in " ".join(psutil.Process(pid).cmdline()):
            psutil.Process(pid).kill()
    training.wait(lambda: not any_launcher(training), "the launcher to leave", 60)


ROWS: tuple[Callable[[Cluster, str], Row], ...] = (overhead, listed)
