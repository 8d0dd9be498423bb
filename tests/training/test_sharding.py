"""Networks spread over processes: the numbers of one process, states of whole tensors, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from pipelines.params import AdamW8Bit
from pipelines.stage import StageError
from pipelines.starting import command_line
from pipelines.training import sharding
from pipelines.training.tracking import read_rows, without_machine
from tests.training import spread
from tests.training.test_processes import ROOT, launched
from tests.training.toy import ADAMW, params

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def run_spread(
    folder: Path, steps: int, optimizer: str, micro_batch: int, checkpointing: bool, broken: bool = False
) -> subprocess.CompletedProcess[str]:
    """The pair of toys in two gloo processes, spread over them."""
    folder.mkdir(exist_ok=True)
    words = (folder, steps, optimizer, micro_batch, str(checkpointing).lower(), str(broken).lower())
    return launched(ROOT / "tests" / "training" / "spread.py", 2, *words, **FSDP)


def ranks(folder: Path) -> list[dict[str, Any]]:
    """What both processes ended with."""
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def rows(folder: Path) -> list[dict[str, float]]:
    """Logged numbers but those of the machine."""
    found = read_rows(next((folder / ".work" / "out").iterdir()) / "rows.jsonl")
    return [without_machine(row) for row in found]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint and of the newest state: weights, averages, optimizer states."""
    state = sorted(next((folder / ".work" / "out").iterdir()).glob("state-*"))[-1]
    files = [*sorted((folder / "out").rglob("*.safetensors")), state / "state.safetensors"]
    return {f"{path.parent.name} {name}": value for path in files for name, value in load_file(path).items()}


def assert_close(found: Path, expected: Path, relative: float) -> None:
    one, other = tensors(found), tensors(expected)
    assert one.keys() == other.keys() and any("exp_avg" in name for name in one) and any("ema" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=relative, atol=relative, msg=lambda text, n=name: n + text)
    for row, wanted in zip(rows(found), rows(expected), strict=True):
        assert row == pytest.approx(wanted, rel=relative)


@pytest.mark.slow
def test_a_spread_run_sees_logs_validates_and_learns_what_one_process_does(tmp_path: Path) -> None:
    done = run_spread(tmp_path / "spread", 6, "adamw", 4, checkpointing=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    one, _ = spread.trained(tmp_path / "one", spread.section(6, ADAMW, 4, checkpointing=False))
    found = ranks(tmp_path / "spread")
    assert [rank["spread"] for rank in found] == [True, True]
    assert found[0]["weights"] == found[1]["weights"]
    assert [keys for turn in zip(*(rank["seen"] for rank in found), strict=True) for keys in turn] == one.seen
    assert_close(tmp_path / "spread", tmp_path / "one", 1e-4)


@pytest.mark.slow
def test_a_spread_run_resumes_to_the_same_bits_and_goes_on_in_one_process(tmp_path: Path) -> None:
    assert run_spread(tmp_path / "cut", 4, "muon", 2, checkpointing=True).returncode == 0
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    for place in ("cut", "whole"):
        done = run_spread(tmp_path / place, 6, "muon", 2, checkpointing=True)
        assert done.returncode == 0, done.stderr[-3000:]
    cut, whole = tensors(tmp_path / "cut"), tensors(tmp_path / "whole")
    assert cut.keys() == whole.keys() and any("momentum_buffer" in name for name in whole)
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    _, run = spread.trained(tmp_path / "moved", spread.section(6, spread.MUON, 2, checkpointing=True))
    assert run.resumes == 1
    assert_close(tmp_path / "moved", tmp_path / "whole", 1e-3)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_update(tmp_path: Path) -> None:
    done = run_spread(tmp_path / "spread", 6, "adamw", 4, checkpointing=False, broken=True)
    assert done.returncode != 0
    assert "at step 3" in done.stderr and "Nothing was updated" in done.stderr


def test_other_kinds_of_spreading_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(StageError, match=r"Megatron-LM.*profiles/launch/fsdp.yaml"):
        spread.trained(tmp_path, spread.section(1, ADAMW, 4, checkpointing=False))
    monkeypatch.delenv("ACCELERATE_USE_MEGATRON_LM")
    path = tmp_path / "launch.yaml"
    path.write_text(yaml.safe_dump({"distributed_type": "MEGATRON_LM", "num_processes": 2}))
    monkeypatch.setenv("REEL_LAUNCH", str(path))
    with pytest.raises(StageError, match=r"distributed_type MEGATRON_LM.*profiles/launch/fsdp.yaml"):
        command_line(["pipelines.toy.toy", "train"], alone=False)


def test_options_that_the_loop_does_not_do_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VERSION": "2", "CPU_RAM_EFFICIENT_LOADING": "true", "OFFLOAD_PARAMS": "true"}.items():
        monkeypatch.setenv(f"FSDP_{name}", value)
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    eight = AdamW8Bit(name="adamw_8bit", learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    found = list(sharding.refusals(FullyShardedDataParallelPlugin(), params(optimizer=eight).training, "fp16"))
    told = ["offload_params", "ram_efficient_loading", "activation_checkpointing", "fp16", "adamw_8bit"]
    assert len(found) == len(told)
    assert all(word in line for word, line in zip(told, found, strict=True))


def test_what_fsdp_is_told_on_a_gpu_it_is_told_on_a_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "profiles/launch/fsdp.yaml").read_text())
    (tmp_path / "launch.yaml").write_text(yaml.safe_dump({**config, "use_cpu": True, "num_processes": 2}))
    monkeypatch.setenv("REEL_LAUNCH", str(tmp_path / "launch.yaml"))
    command, environment = command_line(["pipelines.toy.toy", "train"], alone=False)
    for name in environment:
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, environment[name])
    assert "torch.distributed.run" in command and environment["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert list(sharding.refusals(plugin, params(optimizer=ADAMW).training, "fp32")) == []
