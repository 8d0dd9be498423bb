"""DeepSpeed's ZeRO: the numbers of one process, states of whole tensors, and what is refused.

Those in two processes are skipped where DeepSpeed is not installed: ``pip install 'reelgraph[deepspeed]'``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DeepSpeedPlugin

from pipelines.launch import command_line
from pipelines.params import AdamW8Bit
from pipelines.stage import StageError
from pipelines.training import zero
from pipelines.training.run import Run
from tests.training import spread
from tests.training.test_optimizers import OPTIMIZERS
from tests.training.test_processes import ROOT, launched, make_findable
from tests.training.test_sharding import assert_close, ranks, rows, tensors
from tests.training.toy import ADAMW, params

PROFILE = ROOT / "profiles" / "launch" / "deepspeed.yaml"
two_processes = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed: pip install 'reelgraph[deepspeed]'"
)


def run_zero(script: str, stage: int, *words: object) -> subprocess.CompletedProcess[str]:
    """A script of the tests in two gloo processes that are told of DeepSpeed, in ZeRO ``stage``."""
    told = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    told["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return launched(ROOT / "tests" / "training" / script, 2, *words, **told)


def train_zero(folder: Path, stage: int, steps: int, micro_batch: int, broken: bool = False) -> str:
    """The pair of toys of ``spread.py`` with AdamW; returns its messages where it failed."""
    folder.mkdir(exist_ok=True)
    done = run_zero("spread.py", stage, folder, steps, "adamw", micro_batch, "true", str(broken).lower())
    return done.stderr if done.returncode else ""


def train_one(folder: Path, steps: int, micro_batch: int) -> spread.Pair:
    """The same in this process."""
    folder.mkdir(exist_ok=True)
    return spread.trained(folder, spread.section(steps, ADAMW, micro_batch, checkpointing=True))[0]


@two_processes
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_see_log_validate_and_learn_what_one_does(tmp_path: Path, stage: int) -> None:
    assert train_zero(tmp_path / "zero", stage, 6, 2) == ""
    one = train_one(tmp_path / "one", 6, 2)
    found = ranks(tmp_path / "zero")
    assert [rank["spread"] for rank in found] == [True, True]
    assert found[0]["weights"] == found[1]["weights"]
    assert [keys for turn in zip(*(rank["seen"] for rank in found), strict=True) for keys in turn] == one.seen
    assert_close(tmp_path / "zero", tmp_path / "one", 1e-4)


@two_processes
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_resumes_to_the_same_bits_and_goes_on_in_one_process(tmp_path: Path, stage: int) -> None:
    assert train_zero(tmp_path / "cut", stage, 3, 2) == ""
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    for place in ("cut", "whole"):
        assert train_zero(tmp_path / place, stage, 6, 2) == ""
    cut, whole = tensors(tmp_path / "cut"), tensors(tmp_path / "whole")
    assert cut.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())
    # rows are means since the last one, and a run of three steps ends with a row of its own
    assert rows(tmp_path / "cut")[-1] == rows(tmp_path / "whole")[-1]
    train_one(tmp_path / "moved", 6, 2)
    assert_close_tensors(tmp_path / "moved", tmp_path / "whole", 1e-4)


@two_processes
@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_deepspeed(tmp_path: Path) -> None:
    train_one(tmp_path / "moved", 3, 2)
    assert train_zero(tmp_path / "moved", 2, 6, 2) == ""
    train_one(tmp_path / "one", 6, 2)
    assert_close_tensors(tmp_path / "moved", tmp_path / "one", 1e-4)


def assert_close_tensors(found: Path, expected: Path, relative: float) -> None:
    one, other = tensors(found), tensors(expected)
    assert one.keys() == other.keys() and any("exp_avg" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=relative, atol=relative, msg=lambda text, n=name: n + text)


@two_processes
@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_update(tmp_path: Path) -> None:
    told = train_zero(tmp_path / "zero", 2, 6, 4, broken=True)
    assert "at step 3" in told and "Nothing was updated" in told
    assert not list(tmp_path.glob("zero/rank-*.json"))


@two_processes
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_every_optimizer_follows_its_formula_on_half_of_its_state(tmp_path: Path, stage: int) -> None:
    blocks = [block for block in OPTIMIZERS if block["name"] != "muon"]
    done = run_zero("flat.py", stage, tmp_path, json.dumps(blocks))
    assert done.returncode == 0, done.stderr[-3000:]
    found = ranks(tmp_path)
    for block in blocks:
        one, other = (rank[block["name"]] for rank in found)
        for rank in (one, other):
            assert rank["apart"] < 1e-5 and rank["same_form"] and rank["as_it_was"] and rank["hooks"] == 0
            # parts are padded: four numbers at most for each of the two groups and each kind of state
            assert 0.5 * rank["whole"] <= rank["held"] <= 0.5 * rank["whole"] + 24


# ---- what is refused ----


def told(monkeypatch: pytest.MonkeyPatch, **own: str) -> DeepSpeedPlugin:
    """accelerate's options as its launcher would hand them on."""
    for name, value in own.items():
        monkeypatch.setenv(f"ACCELERATE_{name.upper()}", value)
    return DeepSpeedPlugin()


def test_options_and_parameters_that_the_loop_does_not_do_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = told(
        monkeypatch,
        deepspeed_zero_stage="3",
        deepspeed_offload_optimizer_device="cpu",
        gradient_accumulation_steps="4",
        gradient_clipping="0.25",
        deepspeed_zero3_init="false",
    )
    eight = AdamW8Bit(name="adamw_8bit", learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    found = list(zero.refusals(plugin, params(optimizer=eight).training, "fp16"))
    named = ["zero_stage 3", "offload_optimizer_device cpu", "accumulation_steps", "clipping", "fp16", "adamw_8bit"]
    assert len(found) == len(named)
    assert all(word in line for word, line in zip(named, found, strict=True))
    found = list(zero.refusals(told(monkeypatch, deepspeed_zero_stage="0"), params().training, "fp32"))
    assert "several_gpus.yaml" in found[0] and "muon" in found[-1] and "fsdp.yaml" in found[-1]


def test_a_config_file_of_deepspeed_gives_its_buckets_and_nothing_that_params_decide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "deepspeed.json"
    automatic: dict[str, Any] = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, "gradient_clipping": "auto"}
    own = {"stage": 1, "reduce_bucket_size": 1000, "allgather_bucket_size": "auto", "overlap_comm": True}
    path.write_text(json.dumps({**automatic, "zero_optimization": own}))
    plugin = told(monkeypatch, deepspeed_config_file=str(path))
    section = params(optimizer=ADAMW).training
    assert list(zero.refusals(plugin, section, "bf16")) == []
    given = zero.options(plugin, 10**9, section.max_grad_norm)
    assert given["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True}
    assert given["gradient_clipping"] == section.max_grad_norm
    wrong = {"optimizer": {"type": "AdamW"}, "bf16": {"enabled": True}}
    path.write_text(json.dumps({**wrong, "zero_optimization": {"stage": 2, "zero_quantized_gradients": True}}))
    found = list(zero.refusals(told(monkeypatch, deepspeed_config_file=str(path)), section, "bf16"))
    assert [line.split(":")[0] for line in found] == ["zero_optimization zero_quantized_gradients", "optimizer", "bf16"]


def test_buckets_are_no_larger_than_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = told(monkeypatch, deepspeed_zero_stage="2")
    sizes = [zero.options(plugin, n, 1.0)["zero_optimization"]["reduce_bucket_size"] for n in (10, 10**9)]
    assert sizes == [10, zero.BUCKET]


def test_one_process_needs_no_deepspeed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    section = spread.section(1, ADAMW, 4, checkpointing=False)
    run = Run.open(section, {}, out=tmp_path / "out", metrics=tmp_path / "toy.json", plots=tmp_path / "plots")
    assert run.zero is None and os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def test_a_missing_package_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("REEL_LAUNCH", str(PROFILE))
    with pytest.raises(StageError, match=r"pip install 'reelgraph\[deepspeed\]'.*fsdp.yaml"):
        command_line(["pipelines.toy.toy", "train"], alone=False)
    with pytest.raises(StageError, match=r"pip install 'reelgraph\[deepspeed\]'.*fsdp.yaml"):
        zero.ZeroOptimizer(spread.Stacked(), ADAMW, told(monkeypatch), 1.0, torch.device("cpu"))


def test_what_deepspeed_is_told_on_a_gpu_it_is_told_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {**yaml.safe_load(PROFILE.read_text()), "use_cpu": True, "num_processes": 2}
    path = tmp_path / "launch.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("REEL_LAUNCH", str(path))
    make_findable("deepspeed", tmp_path, monkeypatch)
    command, environment = command_line(["pipelines.toy.toy", "train"], alone=False)
    for name in environment:
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, environment[name])
    assert "torch.distributed.run" in command and environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    plugin = zero.asked(2, params(optimizer=ADAMW).training, "fp32")
    assert plugin is not None and plugin.zero_stage == 2
    with pytest.raises(StageError, match=r"DeepSpeed: training.optimizer muon .*deepspeed.yaml has the values"):
        zero.asked(2, params().training, "fp32")
    own = {**config["deepspeed_config"], "deepspeed_multinode_launcher": "pdsh"}
    path.write_text(yaml.safe_dump({**config, "num_machines": 2, "deepspeed_config": own}))
    with pytest.raises(StageError, match=r"deepspeed_multinode_launcher: set standard"):
        command_line(["pipelines.toy.toy", "train"], alone=False)
