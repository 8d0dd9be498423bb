"""The whole lineage through Dagster against the stages' own processes, one after another, with nothing around them.

``python -m benchmarks dagster_demo`` works on a copy of this project with the parameters of `SMALL` (a minute or two of
compute), ``python -m benchmarks.dagster_demo --full`` on one with params.yaml as it is. *Ours* is ``dagster asset
materialize --select '*'`` from an empty project, one stage at a time: definitions, DVC, locks, launcher, hashing,
caching, events and checks. The *peer* is the sum of the wall times of ``python -m pipelines <module> <function> …`` for
the same stages, which starts an interpreter and imports torch, and has nothing else around the stage. What Dagster adds
is some seconds per stage, whatever the stage does: they are printed too, because they carry over to longer runs.

``python -m benchmarks.dagster_demo --history FOLDER`` measures nothing anew: of the last finished run of the job
``everything`` in that project's Dagster it takes the wall time (stages side by side, as shipped) and the sum of the
steps (as if one after another), both against the seconds that the stages' own functions recorded in ``metrics/``. All
three are of one run, so they were slowed by the same neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.paired import Figure, seconds
from dagster_dvc.project import DvcProject
from dagster_project import home

REPO = Path(__file__).parents[1]
PARTS = (
    "assets",
    "dagster_dvc",
    "dagster_project",
    "docs",
    "pipelines",
    ".dvcignore",
    "dvc.yaml",
    "graph.yaml",
    "params.yaml",
)
MADE = ("data", "checkpoints", "metrics", "plots", "report", ".work", "dvc.lock", ".dvc/cache", ".dagster")
ROUNDS = 2
SHORT = {"steps": 60, "save_every": 60, "validate_every": 60, "ema": None}
OPEN = {"fail": -1.0}
GATES = {
    name: OPEN
    for name in ("entropy_ratio", "retrieval_excess", "text_to_keyframes", "keyframes_to_text", "rankme", "stability")
}
SMALL: dict[str, Any] = {
    "raw_video": {"source": {"rendered": {"num_clips": 128}}},
    "autoencoder": {"training": SHORT, "gates": {"min_latent_std": 0.0, "min_psnr": 0.0}},
    "latent_mae": {"training": SHORT},
    "pseudo_classes": {"num_classes": 4, "fallback": None},
    "diagnostics": {
        "gates": {**GATES, "largest_share": {"fail": 1.0}, "agreement": {"identity": OPEN, "motion": OPEN}}
    },
    "anchored_flow_identity": {"training": SHORT},
    "anchored_flow_motion": {"training": SHORT, "motion_gain": {"warmup_steps": 0}},
    "anchored_flow_unified": {"training": SHORT, "motion_gain": {"warmup_steps": 0}},
    "rectified_flow": {"training": SHORT},
    "evaluation": {"num_prompts": 8, "num_shown": 4, "probe": {"frames": {"steps": 20}, "clips": {"steps": 20}}},
}
"""What is not params.yaml's: short trainings of few clips, and gates that let them through."""


@dataclass
class Lineage:
    """A copy of the project, and the wall seconds of both ways of running all of it, round by round."""

    root: Path
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def time(self) -> None:
        """One round: the bare stages, then Dagster."""
        stages = list(DvcProject(self.root).stages.values())
        self._clear()
        self.peer.append(sum(seconds(lambda words=stage.command: self._bare(words)) for stage in stages))
        self._clear()
        self.ours.append(seconds(self._dagster))

    def _clear(self) -> None:
        for name in MADE:
            path = self.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _bare(self, command: str) -> None:
        """The stage as the launcher starts it, without the launcher."""
        words = shlex.split(command)
        words = words[words.index("pipelines.launch") + 1 :]
        options = [word for word in words if word == "--alone"]
        threads = next((word.partition("=")[2] for word in options if "=" in word), "1")
        stage = [word for word in words if word not in options]
        self._run([sys.executable, "-m", "pipelines", *stage], OMP_NUM_THREADS=threads, ACCELERATE_USE_CPU="true")

    def _dagster(self) -> None:
        words = ["dagster", "asset", "materialize", "--select", "*", "-m", "dagster_project.definitions"]
        self._run([sys.executable, "-W", "ignore", "-m", *words], REEL_JOBS="1", **home.environment(self.root))

    def _run(self, command: list[str], **more: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(self.root), **more}
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{shlex.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )


def measure(full: bool = False, rounds: int = ROUNDS) -> Iterator[Figure]:
    """The ratio of wall times; what is added per stage stands in the figure's name."""
    with tempfile.TemporaryDirectory() as folder:
        lineage = Lineage(_copy(Path(folder) / "project", {} if full else SMALL))
        for _ in range(rounds):
            lineage.time()
        number = len(DvcProject(lineage.root).stages)
    pairs = list(zip(lineage.ours, lineage.peer, strict=True))
    added = sorted((ours - peer) / number for ours, peer in pairs)
    name = f"whole lineage, {number} stages, {sum(lineage.peer) / rounds:.0f} s of their own"
    held = f"at most 1.15 for the demo; Dagster adds {added[0]:.1f} to {added[-1]:.1f} s a stage"
    ratios = tuple(ours / peer for ours, peer in pairs)
    yield Figure(name, "Dagster, one stage at a time", "the bare stages", "times", ratios, held)


def of_history(root: Path) -> Iterator[Figure]:
    """The two ratios of a run that is already in a project's Dagster.

    Raises:
        SystemExit: no run of all stages has finished there.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    stages = DvcProject(root).stages
    with DagsterInstance.from_config(str(home.dagster_home(root))) as instance:
        wanted = RunsFilter(job_name="everything", statuses=[DagsterRunStatus.SUCCESS])
        for run in instance.get_runs(wanted):
            steps = [step for step in instance.get_run_step_stats(run.run_id) if step.start_time and step.end_time]
            spans = [(step.end_time or 0.0) - (step.start_time or 0.0) for step in steps]
            own = sum(_own_seconds(root, name) for name in stages)
            if len(spans) == len(stages) and sum(spans) > own:  # else stages were reused
                record = instance.get_run_record_by_id(run.run_id)
                assert record is not None and record.end_time is not None and record.start_time is not None
                yield from _figures(record.end_time - record.start_time, sum(spans), own, len(stages))
                return
    raise SystemExit(f"{root}: no finished run of the job 'everything' in which every stage was executed")


def _own_seconds(root: Path, stage: str) -> float:
    file = root / "metrics" / f"{stage}.json"
    return json.loads(file.read_text(encoding="utf-8")).get("seconds", 0.0) if file.is_file() else 0.0


def _figures(wall: float, steps: float, own: float, number: int) -> Iterator[Figure]:
    name = f"whole lineage, {number} stages, {own:.0f} s of their own compute"
    held = "at most 1.15 for the demo"
    yield Figure(name, "a run in Dagster, two stages at once", "the stages' own compute", "times", (wall / own,), held)
    added = f"{held}; {(steps - own) / number:.1f} s a stage"
    yield Figure(name, "its steps, one after another", "the stages' own compute", "times", (steps / own,), added)


def _copy(root: Path, changes: Mapping[str, Any]) -> Path:
    root.mkdir()
    for part in PARTS:
        source = REPO / part
        hidden = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, root / part, ignore=hidden) if source.is_dir() else shutil.copy(source, root / part)
    (root / ".dvc").mkdir()
    shutil.copy(REPO / ".dvc/config", root / ".dvc/config")
    values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump(_changed(values, changes)), encoding="utf-8")
    return root


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: _changed(values[name], part) for name, part in changes.items() if isinstance(part, Mapping)}
    return {**values, **changes, **nested}


def main() -> None:
    """Print the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="params.yaml as it is, not SMALL")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--history", type=Path, metavar="FOLDER", help="a project whose Dagster ran everything")
    arguments = parser.parse_args()
    if arguments.history is not None:
        for figure in of_history(arguments.history.resolve()):
            print(figure)
        return
    for figure in measure(arguments.full, arguments.rounds):
        print(figure)


if __name__ == "__main__":
    main()
