"""The loop: exact resume, accumulation, stopping on what is not finite."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines import stage
from pipelines.params import AdamW, ParamsError
from pipelines.training import state
from pipelines.training.loop import accumulation, micro_seed, train
from pipelines.training.meters import Scalars, sigma_buckets
from pipelines.training.optimizers import NetworkOptimizer
from pipelines.training.run import Run
from pipelines.training.tracking import read_rows
from tests.training.toy import Net, Points, Regression, params, run, train_toy


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted((folder / "out").rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.costly
def test_a_run_cut_in_two_equals_an_uninterrupted_one_bitwise(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", params(steps=10))
    first, _ = run(tmp_path / "cut", params(steps=7))
    shutil.rmtree(tmp_path / "cut" / "out")
    second, resumed = run(tmp_path / "cut", params(steps=10))

    assert resumed.resumes == 1
    assert whole.seen == first.seen + second.seen
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert any("ema" in name for name in expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_an_unfinished_state_is_not_used_and_a_broken_one_is_set_aside(tmp_path: Path, capsys: object) -> None:
    train_toy(tmp_path, params(steps=8))
    work = next((tmp_path / ".work" / "out").iterdir())
    states = sorted(work.glob("state-*"))
    assert [path.name for path in states] == ["state-000000004", "state-000000008"]
    damaged = states[-1] / "state.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    found = state.newest(work)
    assert found is not None and found["step"] == 4
    assert list(work.glob("broken-state-000000008-*"))


@pytest.mark.costly
def test_rows_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", params(steps=10))
    run(tmp_path / "cut", params(steps=4))
    run(tmp_path / "cut", params(steps=10))

    def losses(folder: Path) -> list[tuple[int, float]]:
        rows = read_rows(folder / "out" / "metrics.jsonl")
        return [(row["step"], row["loss/net"]) for row in rows if "loss/net" in row and row["step"] > 4]

    assert losses(tmp_path / "whole")[-2:] == losses(tmp_path / "cut")[-2:]


@pytest.mark.costly
def test_accumulation_equals_a_larger_micro_batch(tmp_path: Path) -> None:
    section = params(steps=3)
    noiseless = section.model_copy(update={"noise": 0.0})
    run(tmp_path / "split", noiseless)
    at_once = noiseless.training.model_copy(update={"micro_batch": 8})
    run(tmp_path / "whole", noiseless.model_copy(update={"training": at_once}))
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "split")
    for name, tensor in expected.items():
        torch.testing.assert_close(tensor, found[name], rtol=2e-4, atol=2e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    made = []

    def broken(noise: float) -> Regression:
        made.append(Regression(noise, broken_at=5))
        return made[0]

    with pytest.raises(stage.StageError) as caught:
        run(tmp_path, params(steps=8), broken)
    message = str(caught.value)
    assert "step 6" in message and "sample-" in message and "state-000000004" in message
    assert not (tmp_path / "out").exists()
    assert all(torch.isfinite(p).all() for p in made[0].net.parameters())


def test_batch_size_must_be_divisible_and_the_message_says_by_what() -> None:
    assert accumulation(64, 8, 2) == 4
    with pytest.raises(ParamsError, match=r"4 x 8 = 32\)\. Use 64 or 96"):
        accumulation(66, 4, 8)


def test_randomness_is_a_function_of_seed_step_and_place() -> None:
    seeds = {micro_seed(seed, step, index) for seed in range(3) for step in range(5) for index in range(4)}
    assert len(seeds) == 60
    assert micro_seed(1, 2, 3) == micro_seed(1, 2, 3) >= 0


def test_loss_by_sigma_weights_to_the_mean() -> None:
    sigma, loss = torch.tensor([0.0, 0.1, 0.6, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0])
    scalars = Scalars()
    scalars.add("loss/net", loss.mean())
    scalars.buckets.append(sigma_buckets(loss, sigma))
    assert scalars.take() == (
        [("loss/net", 4.0)],
        [
            ("loss_by_sigma/0.00-0.25", 2.0, 2.0),
            ("loss_by_sigma/0.50-0.75", 5.0, 1.0),
            ("loss_by_sigma/0.75-1.00", 7.0, 1.0),
        ],
    )
    assert scalars.take() == ([], [])


def test_every_parameter_has_exactly_one_optimizer_and_muon_takes_only_matrices() -> None:
    network = Net()
    optimizer = NetworkOptimizer(network, params().training.optimizer)
    assert {id(p) for p in optimizer.parameters()} == {id(p) for p in network.parameters()}
    assert len(list(optimizer.parameters())) == len(list(network.parameters()))
    assert all(view.ndim == 2 for _, view in optimizer.views)


def test_the_flattened_view_updates_the_kernel_itself() -> None:
    network = Net()
    optimizer = NetworkOptimizer(network, params().training.optimizer)
    before = network.kernel.weight.detach().clone()
    network(torch.randn(4, 6)).sum().backward()
    optimizer.step(1.0)
    assert not torch.equal(before, network.kernel.weight)
    assert network.kernel.weight.grad is None


@pytest.mark.costly
def test_adamw_alone_trains_too(tmp_path: Path) -> None:
    adamw = AdamW(name="adamw", learning_rate=0.01, betas=(0.9, 0.999), weight_decay=0.01)
    run(tmp_path, params(steps=60, optimizer=adamw, log_every=10))
    rows = [row for row in read_rows(tmp_path / "out" / "metrics.jsonl") if "loss/net" in row]
    assert rows[-1]["loss/net"] < rows[0]["loss/net"]


@pytest.mark.costly
def test_the_checkpoint_says_where_it_came_from(tmp_path: Path) -> None:
    run(tmp_path, params(steps=4))
    record = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert record["step"] == 4 and record["params"]["training"]["batch_size"] == 8
    assert set(record["weights"]) == {"model.safetensors", "ema/model.safetensors"}
    assert record["results"] == {"score": 1.0}
    assert (tmp_path / "plots" / "toy" / "training" / "training_overview.png").stat().st_size > 5000
    metrics = json.loads((tmp_path / "metrics" / "toy.json").read_text())
    assert metrics["validation/loss"] == 4.0


@pytest.mark.costly
def test_a_longer_run_continues_and_any_other_change_starts_anew(tmp_path: Path) -> None:
    run(tmp_path, params(steps=4))
    _, longer = run(tmp_path, params(steps=6))
    assert longer.resumes == 1
    _, other = run(tmp_path, params(steps=6, max_grad_norm=0.5))
    assert other.resumes == 0


def test_states_round_trip_without_pickle(tmp_path: Path) -> None:
    tree = {"a": torch.arange(3), "b": [{1: torch.ones(2, 2), "x": None}, 2.5, "text"], "c": {"empty": {}}}
    state.write(tmp_path, 3, tree)
    found = state.newest(tmp_path)
    assert found is not None
    assert torch.equal(found["a"], tree["a"]) and torch.equal(found["b"][0][1], torch.ones(2, 2))
    assert found["b"][1:] == [2.5, "text"] and found["c"] == {"empty": {}}
    names = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


def test_the_last_good_state_is_never_removed_first(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        state.write(tmp_path, step, {"step": step})
        assert len(list(tmp_path.glob("state-*"))) == min(step, state.KEEP)
    assert not list(tmp_path.glob(".state-*"))


SLOW_RUN = """
import sys, time
from pathlib import Path
from tests.training.toy import Regression, params, run
from pipelines import stage
import signal
signal.signal(signal.SIGTERM, stage._on_signal)
class Slow(Regression):
    def losses(self, batch, step):
        time.sleep(0.01)
        print("step", step, flush=True)
        return super().losses(batch, step)
try:
    run(Path(sys.argv[1]), params(steps=10, save_every=1), Slow)
except stage.Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(stage.STOPPED)
"""


@pytest.mark.costly
def test_a_run_asked_to_stop_continues_to_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    for line in process.stdout:
        if line.startswith("step 5"):
            process.send_signal(signal.SIGTERM)
            break
    process.communicate()
    code = process.returncode
    watchdog.cancel()
    assert code == stage.STOPPED
    run(tmp_path / "killed", params(steps=10, save_every=1))
    run(tmp_path / "whole", params(steps=10, save_every=1))
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_batches_of_the_toy_are_a_function_of_the_step() -> None:
    assert Points().keys(3) == Points().keys(3) != Points().keys(4)


def test_validation_is_computed_in_the_precision_of_training(tmp_path: Path) -> None:
    """Networks spread by FSDP are not wrapped by accelerate: their validation would be of float32."""
    seen: list[torch.dtype] = []
    section = params(steps=2, precision="bf16", validate_every=1)
    opened = Run.open(section, {}, out=tmp_path / "out", metrics=tmp_path / "toy.json", plots=tmp_path / "plots")
    plain = torch.nn.Linear(3, 3)

    def validate(step: int) -> dict[str, float]:
        seen.append(plain(torch.ones(1, 3)).dtype)
        return {"loss": float(step)}

    train(Regression(), Points(), opened, validate)
    assert seen == [torch.bfloat16, torch.bfloat16]
