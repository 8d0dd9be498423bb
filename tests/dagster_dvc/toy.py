"""A small real DVC project: five stages of plain Python, made in a temporary folder."""

import base64
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import yaml

from tests import forked

REPO = Path(__file__).parents[2]

DVC_YAML = """
stages:
  prepare:
    desc: Doubles the source numbers.
    meta: {dagster: {group: data, owners: ["team:data"], tags: {tier: raw}}}
    cmd: python prepare.py
    deps: [prepare.py, source/numbers.txt]
    outs: [work/numbers]
  left:
    desc: Adds on the left.
    meta: {dagster: {group: sides}}
    cmd: python add.py left
    deps: [add.py, work/numbers]
    params: [left]
    outs: [work/left]
  right:
    desc: Adds on the right.
    meta: {dagster: {group: sides}}
    cmd: python add.py right
    deps: [add.py, work/numbers]
    params: [right]
    outs: [work/right]
  train:
    desc: Sums both sides.
    meta:
      dagster:
        group: training
        kinds: [python]
        pool: gpu
        checks: [total_is_large, {metric: total, min: 1, blocking: true}]
    cmd: python train.py
    deps: [train.py, work/left, work/right]
    params: [train]
    outs: [work/model]
    metrics: [metrics/train.json]
    plots: [plots/train]
  evaluate:
    desc: Reads the model.
    meta: {dagster: {group: training}}
    cmd: python evaluate.py
    deps: [evaluate.py, work/model]
    outs: [work/scores, work/pictures]
"""

FILES = {
    "source/numbers.txt": "1\n2\n3\n",
    "params.yaml": """
        left: {amount: 1.0e-4, word: 'on', seconds: 0}
        right: {amount: 2, seconds: 0}
        train: {total: 3, gate: 1, steps: 0}
        """,
    "prepare.py": """
        from pathlib import Path
        numbers = [2 * int(line) for line in Path("source/numbers.txt").read_text().split()]
        Path("work/numbers").mkdir(parents=True)
        Path("work/numbers/all.txt").write_text(" ".join(map(str, numbers)))
        print("doubled", len(numbers), flush=True)
        """,
    "add.py": """
        import sys, time, yaml
        from pathlib import Path
        side = sys.argv[1]
        params = yaml.safe_load(Path("params.yaml").read_text())[side]
        time.sleep(params.get("seconds", 0))
        numbers = [float(n) + float(params["amount"]) for n in Path("work/numbers/all.txt").read_text().split()]
        Path(f"work/{side}").write_text(repr(numbers))
        print("added on the", side, flush=True)
        """,
    "train.py": """
        import json, os, sys, time, yaml
        from pathlib import Path
        params = yaml.safe_load(Path("params.yaml").read_text())["train"]
        total = sum(sum(eval(Path(f"work/{side}").read_text())) for side in ("left", "right"))
        if total < 0:
            print("train: the total is negative", file=sys.stderr)
            sys.exit(7)
        pipes = None
        if os.environ.get("DAGSTER_PIPES_MESSAGES"):
            import dagster_pipes
            pipes = dagster_pipes.open_dagster_pipes()
        Path(".work").mkdir(exist_ok=True)
        state = Path(".work/step")
        for step in range(int(state.read_text()) if state.exists() else 0, params["steps"]):
            time.sleep(0.1)
            Path(".work/partial").write_text(str(step + 1))
            Path(".work/partial").replace(state)
            progress = {"done": step + 1, "total": params["steps"], "unit": "step", "seconds_left": 0.1,
                        "numbers": {"loss/denoiser": 1 / (step + 1)}}
            print(f"step {step + 1} of {params['steps']}", flush=True)
            if pipes:
                pipes.report_custom_message({"progress": progress})
        if pipes:
            pipes.close()
        state.unlink(missing_ok=True)
        for folder in ("work", "metrics", "plots/train"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        Path("work/model").write_text(repr(total * params["total"]))
        gate = {"name": "total_is_large", "value": total, "threshold": params["gate"], "comparison": ">=",
                "verdict": "pass" if total >= params["gate"] else "fail", "reason": "the sum of both sides"}
        Path("metrics/train.json").write_text(json.dumps({"total": total, "psnr": {"held_out": 29.5}, "gates": [gate]}))
        Path("plots/train/curve.png").write_bytes(PNG)
        Path("plots/train/training.csv").write_text("step,loss\\n1,0.5\\n2,0.25\\n")
        """,
    "evaluate.py": """
        from pathlib import Path
        model = Path("work/model").read_text()
        Path("work/scores").write_text("scores " + model)
        Path("work/pictures").mkdir()
        Path("work/pictures/a.txt").write_text(model)
        """,
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def make(root: Path, dvc_yaml: str = DVC_YAML, **files: str) -> Path:
    """The toy project in `root`, initialised without git."""
    texts = {**FILES, **{name.replace("__", "."): text for name, text in files.items()}, "dvc.yaml": dvc_yaml}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("PNG)", f"{PNG!r})"))
    (root / ".dvcignore").write_text("__pycache__\n*.pyc\n.work\n.dagster\n")
    dvc(root, "init", "--no-scm", "--quiet")
    dvc(root, "config", "core.analytics", "false")
    return root


def environment() -> dict[str, str]:
    """The environment for the toy's processes: this interpreter first, one thread, this repository importable."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def dvc(root: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the real dvc in the project."""
    done = forked.run("dvc", *words, cwd=root, env=environment())
    if check and done.returncode:
        raise AssertionError(f"dvc {' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    return done


def edit(root: Path, file: str, old: str, new: str) -> None:
    """Replace text in a file; fails when it is not there."""
    text = (root / file).read_text()
    assert old in text, f"{old!r} is not in {file}"
    (root / file).write_text(text.replace(old, new))


def params(root: Path) -> dict[str, dict[str, object]]:
    """The toy's params as they are now."""
    return yaml.safe_load((root / "params.yaml").read_text())
