"""What the machine file sends to the cluster, and the script that comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.document import load
from pipelines.slurm.script import text
from pipelines.slurm.target import Target
from pipelines.stage import StageError
from pipelines.starting import sent_to
from pipelines.targets import target

FILE = Path("launch.yaml")
KNOWN = {"autoencoder", "rectified_flow", "report"}


def sent(content: str, stage: str = "rectified_flow") -> Target | None:
    found = target(FILE, load(content), stage, KNOWN)
    assert found is None or isinstance(found, Target)
    return found


def test_a_stage_takes_what_all_are_given_but_for_its_own() -> None:
    content = """
    target: slurm
    slurm:
      account: lab
      resources: {nodes: 1, processes: 4, gpus: 4, time: "1:00:00"}
      stages:
        rectified_flow: {nodes: 8, time: "2-00:00:00", time_min: "4:00:00"}
        report: local
    """
    own, common = sent(content), sent(content, "autoencoder")
    assert own is not None and common is not None
    assert (own.resources.nodes, own.resources.processes, own.resources.ranks) == (8, 4, 32)
    assert (own.resources.time, common.resources.time) == ("2-00:00:00", "1:00:00")
    assert sent(content, "report") is None
    assert sent("{}") is None and sent("target: local") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("target: slrum", "launch.yaml: target is 'slrum'; write local, slurm or kubernetes."),
        ("{target: slurm, slurm: {acount: lab}}", "launch.yaml: slurm.acount: unknown key; known: account, qos"),
        ("{target: slurm, slurm: {resources: {gpu: 8}}}", "slurm.resources.gpu: unknown key; known: nodes"),
        ("{target: slurm, slurm: {resources: {time: 90}}}", "90: write a time as Slurm does, in quotes"),
        ("{target: slurm, slurm: {resources: {time: soon}}}", "'soon': write a time as Slurm does"),
        ("{target: slurm, slurm: {resources: {memory: 64 GB}}}", "'64 GB': write memory as Slurm does, such as 64G"),
        ("{target: slurm, slurm: {resources: {nodes: 0}}}", "slurm.resources.nodes"),
        ("{target: slurm, slurm: {stages: {rectifed: {nodes: 2}}}}", "slurm.stages.rectifed: no stage of dvc.yaml"),
        ("{target: slurm, slurm: {stages: {rectified_flow: here}}}", "slurm.stages.rectified_flow"),
        ('{target: slurm, slurm: {setup: ["a\\nb"]}}', "slurm.setup.0: one line of text"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_key(content: str, said: str) -> None:
    with pytest.raises(StageError) as caught:
        sent(content)
    assert said in str(caught.value)


def test_the_script_says_what_was_asked_and_starts_nothing_that_a_shell_would_read_otherwise() -> None:
    found = sent("""
    target: slurm
    slurm:
      qos: low
      warning_seconds: 300
      setup: ["module load cuda/12"]
      resources: {nodes: 2, processes: 8, cpus: 6, gpus: 8, memory: 400G, time: "12:00:00", time_min: "2:00:00",
                  partition: gpu, options: ["--exclusive"]}
    """)
    assert found is not None
    command = ["/opt/a b/python", "-m", "pipelines.slurm.job", "x; rm -rf y"]
    script = text(found, "reel-train-0a", "reel:p:train:k", Path("/lab/my project/%j.log"), command).splitlines()
    assert script[0] == "#!/bin/bash"
    words = {line.removeprefix("#SBATCH ") for line in script if line.startswith("#SBATCH ")}
    assert words >= {
        "--job-name=reel-train-0a",
        "--comment=reel:p:train:k",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--cpus-per-task=6",
        "--gpus-per-node=8",
        "--mem=400G",
        "--time=12:00:00",
        "--time-min=2:00:00",
        "--partition=gpu",
        "--qos=low",
        "--signal=B:USR1@300",
        '--output="/lab/my project/%j.log"',
        "--requeue",
        "--exclusive",
    }
    assert not any(word.startswith("--account") for word in words)
    assert script[-2:] == ["module load cuda/12", "exec '/opt/a b/python' -m pipelines.slurm.job 'x; rm -rf y'"]
    assert script.index("trap '' USR1") < len(script) - 2


def test_several_machines_without_an_engine_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch.yaml").write_text("num_machines: 2\nnum_processes: 16\n")
    with pytest.raises(StageError, match=r"num_machines 2: .* `target: slurm`"):
        sent_to("rectified_flow")
