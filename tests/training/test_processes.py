"""Several processes: the same samples, the same randomness, the same weights as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from pipelines.devices import NONE, Devices
from pipelines.starting import command_line, free_port
from pipelines.training.tracking import read_rows
from tests.training.toy import params, train_toy

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys, time
from pathlib import Path
from pipelines.processes import leave_group
from tests.training.toy import Regression, params, train_toy

folder, steps, micro = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
class Broken(Regression):
    def losses(self, batch, step):
        from accelerate import PartialState
        if step == 2 and PartialState().process_index == 1 and "broken" in sys.argv:
            (folder / "raised").write_text(str(time.time()))
            raise RuntimeError("the disk of the second process is gone")
        return super().losses(batch, step)
objective, done = train_toy(folder, params(steps=steps, micro_batch=micro, log_every=2), Broken)
rank = done.accelerator.process_index
seen = {"world": done.accelerator.num_processes, "seen": objective.seen}
seen["weights"] = {name: value.tolist() for name, value in objective.net.state_dict().items()}
(folder / f"rank-{rank}.json").write_text(json.dumps(seen))
leave_group()
"""


def launched(script: Path, processes: int, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script in so many gloo processes, with these environment variables."""
    launcher = ["torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    command = [sys.executable, "-m", *launcher, str(script), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment |= variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def together(folder: Path, processes: int, steps: int, micro: int) -> list[dict[str, Any]]:
    """What each of the processes saw and ended with."""
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    done = launched(script, processes, folder, steps, micro)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


def numbers(folder: Path) -> dict[str, list[float]]:
    """Logged losses and gradient norms by name."""
    work = next((folder / ".work" / "out").iterdir())
    rows = read_rows(work / "rows.jsonl")
    names = ("loss/net", "loss/error", "grad_norm/net")
    return {name: [row[name] for row in rows if name in row] for name in names}


def same_as_one(tmp_path: Path, processes: int, micro: int) -> None:
    """Order, weights and logged numbers of several processes and of one, at the same global batch of 8."""
    ranks = together(tmp_path / "several", processes, 6, micro)
    one, _ = train_toy(tmp_path / "one", params(steps=6, micro_batch=micro, log_every=2))
    assert [rank["world"] for rank in ranks] == [processes] * processes
    # micro-batch i of an update goes to process i mod the number of processes: the global order is that of one
    interleaved = [keys for turn in zip(*(rank["seen"] for rank in ranks), strict=True) for keys in turn]
    assert interleaved == one.seen
    for rank in ranks:
        assert rank["weights"] == ranks[0]["weights"]
    for name, value in one.net.state_dict().items():
        torch.testing.assert_close(torch.tensor(ranks[0]["weights"][name]), value, rtol=5e-4, atol=5e-5)
    expected, found = numbers(tmp_path / "one"), numbers(tmp_path / "several")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.slow
def test_two_processes_see_log_and_learn_what_one_does_and_resume_exactly(tmp_path: Path) -> None:
    same_as_one(tmp_path, 2, 4)
    together(tmp_path / "cut", 2, 4, 4)
    resumed = together(tmp_path / "cut", 2, 6, 4)
    whole = json.loads((tmp_path / "several" / "rank-0.json").read_text())
    assert resumed[0]["weights"] == whole["weights"]
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "several")


@pytest.mark.slow
def test_four_processes_see_log_and_learn_what_one_does(tmp_path: Path) -> None:
    same_as_one(tmp_path, 4, 1)


@pytest.mark.slow
def test_another_number_of_processes_continues_in_the_same_global_order(tmp_path: Path) -> None:
    first = together(tmp_path / "cut", 2, 3, 2)
    second, _ = train_toy(tmp_path / "cut", params(steps=6, micro_batch=2, log_every=2))
    one, _ = train_toy(tmp_path / "one", params(steps=6, micro_batch=2, log_every=2))
    before = [keys for turn in zip(*(rank["seen"] for rank in first), strict=True) for keys in turn]
    assert before + second.seen == one.seen
    for name, value in one.net.state_dict().items():
        torch.testing.assert_close(second.net.state_dict()[name], value, rtol=5e-4, atol=5e-5)


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_within_seconds_and_is_told_first(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launched(script, 2, tmp_path / "run", 100000, 4, "broken")
    seconds = time.time() - float((tmp_path / "run" / "raised").read_text())
    assert done.returncode != 0 and seconds < 30
    first = next(line for line in done.stderr.splitlines() if "Error: " in line)
    assert first.endswith("RuntimeError: the disk of the second process is gone")


PROFILES = sorted(
    path for path in (ROOT / "profiles" / "launch").glob("*.yaml") if path.stem not in ("slurm", "kubernetes")
)
"""Those of accelerate."""


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_launch_profile_is_one_that_accelerate_and_the_launcher_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config_from_file(str(path))
    given = yaml.safe_load(path.read_text())
    assert str(config.distributed_type).rsplit(".", 1)[-1] in ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
    monkeypatch.setenv("REEL_LAUNCH", str(path))
    devices = NONE if given["use_cpu"] else Devices(tuple(map(str, range(given["num_processes"]))))
    command, environment = command_line(["pipelines.toy.toy", "train"], alone=False, devices=devices)
    if given["num_processes"] == 1:
        assert command[2] == "pipelines"
    elif given["use_cpu"]:
        assert command[2] == "torch.distributed.run" and environment["ACCELERATE_USE_CPU"] == "true"
        assert f"--nproc-per-node={given['num_processes']}" in command
    else:
        assert command[2] == "accelerate.commands.launch" and str(path) in command
        assert "--main_process_port" in command
