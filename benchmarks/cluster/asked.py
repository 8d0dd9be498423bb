"""What the machine file asks for arrives at Slurm, and what the accounting says of the job in the stage's record."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.cluster.jobs import judged
from benchmarks.cluster.slurm import Cluster
from benchmarks.cluster.training import PATIENCE, Failed, Row, Training
from pipelines.slurm.queue import read_facts

ASKED = {"nodes": 1, "processes": 2, "cpus": 1, "gpus": 1, "memory": "500M", "time": "1:00:00", "time_min": "0:20:00"}
EXPECTED = {
    "TimeLimit": "01:00:00",
    "TimeMin": "00:20:00",
    "NumNodes": "1-1",  # of a job that waits: from, to
    "NumTasks": "2",
    "CPUs/Task": "1",
    "MinMemoryNode": "500M",
    "TresPerNode": "gres:gpu:1",
}


def asked(cluster: Cluster, reference: str) -> Row:
    """GPUs, processors, memory, time and the least time of one stage, as the controller has them of a held job."""
    del reference  # the job never runs
    training = Training(cluster, "asked")
    machine = yaml.safe_load((training.root / "launch.yaml").read_text())
    machine["slurm"]["stages"] = {"train": {**ASKED, "options": ["--hold"]}}
    (training.root / "launch.yaml").write_text(yaml.safe_dump(machine))
    graph = yaml.safe_load((training.root / "dvc.yaml").read_text())
    graph["stages"]["train"]["meta"] = {"dagster": {"pool": "gpu"}}
    (training.root / "dvc.yaml").write_text(yaml.safe_dump(graph))
    running = training.start()
    training.wait(lambda: bool(training.numbers()), "the job", 60)
    facts = read_facts(cluster.say("scontrol", "show", "job", "-o", training.numbers()[-1]))
    os.killpg(running.pid, signal.SIGINT)
    running.wait(PATIENCE)
    other = {key: f"{facts.get(key)} for {value}" for key, value in EXPECTED.items() if facts.get(key) != value}
    told = ", ".join(f"{key}={facts.get(key)}" for key in EXPECTED)
    return Row("what one stage asks for", f"the controller has {told}", str(other or "nothing"), not other)


def accounted(cluster: Cluster, reference: str) -> Row:
    """sacct's words of a job that has ended, in the record of the run that it made."""
    if cluster.no_accounting:
        return Row("accounting", f"not tried: {cluster.no_accounting}", "not known", True)
    training = Training(cluster, "accounted")
    code = training.run()
    told = _recorded(training.root)
    if told.get("from") != "sacct" or told.get("state") != "COMPLETED" or not told.get("peak_gib_of_a_process"):
        raise Failed(f"the record says {told}; sacct: {cluster.say('sacct', '-P', '-j', training.numbers()[-1])}")
    text = f"the record says {re.sub(r'[{}]', '', json.dumps(told))}"
    return judged(training, "accounting", text, reference, code)


def _recorded(root: Path) -> dict[str, object]:
    for file in (root / ".work" / "train").glob("*/record.json"):
        return (json.loads(file.read_text()).get("runtime") or {}).get("slurm") or {}
    return {}


ROWS: tuple[Callable[[Cluster, str], Row], ...] = (asked, accounted)
