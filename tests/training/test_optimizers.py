"""Optimizers and schedules: each follows its formula, and a run cut anywhere equals one that was not."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn

from pipelines import stage
from pipelines.params import NetworkTraining, Optimizer, ParamsError, ReduceOnPlateau, Schedule, StopAbove, StopBelow
from pipelines.training.loop import own_blocks
from pipelines.training.optimizers import NetworkOptimizer
from pipelines.training.schedules import Rate, Smoothed, StopRule
from pipelines.training.tracking import read_rows
from tests.training.cutting import cut_equals_whole
from tests.training.toy import ADAMW, Net, params, train_toy

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "adamw", "learning_rate": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1},
    {"name": "adam", "learning_rate": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "amsgrad": True},
    {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"name": "rmsprop", "learning_rate": 0.01, "smoothing": 0.9, "momentum": 0.5, "weight_decay": 0.1},
    {"name": "lion", "learning_rate": 0.003, "betas": (0.9, 0.99), "weight_decay": 0.1},
    {
        "name": "muon",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "others": {"name": "adamw", "learning_rate": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1},
    },
]
SCHEDULES: list[dict[str, Any]] = [
    {"shape": "constant", "warmup_steps": 2},
    {"shape": "linear", "warmup_steps": 2, "floor": 0.1},
    {"shape": "cosine", "warmup_steps": 2, "floor": 0.1},
    {"shape": "step", "warmup_steps": 0, "every": 3, "factor": 0.5},
    {"shape": "exponential", "warmup_steps": 1, "factor": 0.9, "floor": 0.2},
    {
        "shape": "reduce_on_plateau",
        "warmup_steps": 0,
        "metric": "loss/net",
        "smoothed_over": 2,
        "patience": 1,
        "min_change": 0.1,
        "factor": 0.5,
        "floor": 0.01,
    },
]


def optimizer_block(values: dict[str, Any]) -> Any:
    return TypeAdapter(Optimizer).validate_python(values)


def schedule_block(values: dict[str, Any]) -> Any:
    return TypeAdapter(Schedule).validate_python(values)


def test_every_optimizer_and_schedule_of_the_parameters_is_tested_here() -> None:
    def words(union: Any, key: str) -> set[str]:
        members = get_args(get_args(union)[0])
        return {word for member in members for word in get_args(member.model_fields[key].annotation)}

    assert words(Optimizer, "name") - {"adamw_8bit"} == {block["name"] for block in OPTIMIZERS}
    assert words(Schedule, "shape") == {block["shape"] for block in SCHEDULES}


@pytest.mark.parametrize("block", OPTIMIZERS, ids=lambda block: block["name"])
def test_a_run_stopped_twice_equals_an_uninterrupted_one_with_every_optimizer(tmp_path: Path, block: dict) -> None:
    cut_equals_whole(tmp_path, params(steps=7, optimizer=optimizer_block(block)), [2, 5])


@pytest.mark.parametrize("block", SCHEDULES, ids=lambda block: block["shape"])
def test_a_run_stopped_twice_equals_an_uninterrupted_one_with_every_schedule(tmp_path: Path, block: dict) -> None:
    section = params(steps=9, optimizer=ADAMW, schedule=schedule_block(block))
    cut_equals_whole(tmp_path, section, [1, 6])


@pytest.mark.parametrize("block", OPTIMIZERS, ids=lambda block: block["name"])
def test_every_optimizer_lowers_the_loss_and_weight_decay_spares_vectors(block: dict) -> None:
    torch.manual_seed(0)
    network = Net()
    optimizer = NetworkOptimizer(network, optimizer_block(block))
    x = torch.randn(64, 6)
    target = x.sum(1).sin()

    def loss() -> torch.Tensor:
        return ((network(x) - target) ** 2).mean()

    before = float(loss().detach())
    for _ in range(150):
        loss().backward()
        optimizer.step(1.0)
    assert float(loss().detach()) < 0.85 * before
    for group in (group for one in optimizer.optimizers for group in one.param_groups):
        assert group["weight_decay"] == (0.0 if group["params"][0].ndim < 2 else 0.1)


def test_lion_follows_the_formula_of_its_paper() -> None:
    block = optimizer_block(OPTIMIZERS[4])
    network = nn.Linear(3, 2, bias=False)
    theta, momentum = network.weight.detach().clone(), torch.zeros(2, 3)
    optimizer = NetworkOptimizer(network, block)
    for seed in range(3):
        gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        network.weight.grad = gradient.clone()
        optimizer.step(0.5)
        rate = 0.5 * 0.003
        theta = theta - rate * ((0.9 * momentum + 0.1 * gradient).sign() + 0.1 * theta)
        momentum = 0.99 * momentum + 0.01 * gradient
    torch.testing.assert_close(network.weight.detach(), theta)


def test_eight_bit_adamw_names_its_extra() -> None:
    block = optimizer_block({"name": "adamw_8bit", "learning_rate": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0})
    with pytest.raises(stage.StageError, match=r"pip install 'reelgraph\[eight-bit\]'"):
        NetworkOptimizer(Net(), block)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="nesterov changes nothing without momentum"):
        optimizer_block({"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "nesterov": True, "weight_decay": 0.0})


@given(st.sampled_from(SCHEDULES), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_a_rate_is_never_above_one_and_never_rises_after_the_warm_up(block: dict, steps: int) -> None:
    rate = Rate(schedule_block(block), steps)
    factors = [rate.factor(step) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    after = factors[block["warmup_steps"] :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_falling_schedules_warm_up_to_one_and_end_at_the_floor(shape: str) -> None:
    rate = Rate(schedule_block({"shape": shape, "warmup_steps": 10, "floor": 0.1}), 110)
    assert rate.factor(0) == pytest.approx(1 / 11) and rate.factor(10) == pytest.approx(1.0)
    assert rate.factor(110) == pytest.approx(0.1)
    assert rate.factor(60) == pytest.approx(0.55)


def test_step_and_exponential_have_their_closed_forms() -> None:
    step = Rate(schedule_block(SCHEDULES[3]), 100)
    assert [step.factor(at) for at in (0, 2, 3, 6)] == [1.0, 1.0, 0.5, 0.25]
    exponential = Rate(schedule_block(SCHEDULES[4]), 100)
    assert exponential.factor(4) == pytest.approx(0.9**3) and exponential.factor(99) == 0.2


def test_a_plateau_lowers_the_rate_and_a_falling_metric_does_not() -> None:
    block = schedule_block({**SCHEDULES[5], "smoothed_over": 1, "patience": 2, "floor": 0.3})
    assert isinstance(block, ReduceOnPlateau)
    rate = Rate(block, 100)
    for value in (8.0, 4.0, 2.0, 1.9, 1.0):
        rate.take(value)
    assert rate.factor(50) == 1.0
    for value in (0.99, 0.98):
        rate.take(value)
    assert rate.factor(50) == 0.5
    for value in (1.0, 1.0, 1.0, 1.0):
        rate.take(value)
    assert rate.factor(50) == 0.3


@given(st.lists(st.one_of(st.just(math.nan), st.just(math.inf), st.just(-math.inf)), max_size=20))
def test_what_is_not_finite_neither_stops_a_run_nor_lowers_a_rate(values: list[float]) -> None:
    below = StopRule(StopBelow(metric="loss/net", below=1e30, smoothed_over=1))
    above = StopRule(StopAbove(metric="loss/net", above=-1e30, smoothed_over=1))
    rate = Rate(schedule_block({**SCHEDULES[5], "smoothed_over": 1}), 100)
    for value in values:
        for taker in (below, above, rate):
            taker.take(value)
    assert below.reached is None and above.reached is None and rate.factor(0) == 1.0


def test_smoothing_waits_until_it_has_enough_values() -> None:
    smoothed = Smoothed(3)
    assert [smoothed.take(value) for value in (1.0, math.nan, 2.0, 3.0, 5.0)] == [None, None, None, 2.0, 10 / 3]


def test_a_run_ends_when_its_metric_is_reached_and_says_so(tmp_path: Path) -> None:
    rule = StopBelow(metric="loss/net", below=0.45, smoothed_over=4)
    section = params(steps=300, optimizer=ADAMW, stop_when=rule)
    objective, ended = train_toy(tmp_path, section)
    ended.finish({"net": objective.net}, {})
    assert 4 <= ended.step < 300
    record = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert record["step"] == ended.step
    assert record["ended"].startswith("loss/net below 0.45 over 4 values (it was 0.")
    # the same command again does not go on: the rule was reached
    _, again = train_toy(tmp_path, section)
    assert again.step == ended.step and again.ended == ended.ended


def test_a_run_stopped_while_its_rule_fills_ends_at_the_same_step(tmp_path: Path) -> None:
    rule = StopAbove(metric="validation/loss", above=14.0, smoothed_over=2)  # the toy's validation is its step
    section = params(steps=300, optimizer=ADAMW, stop_when=rule)
    assert cut_equals_whole(tmp_path, section, [7, 16]).step == 20


def test_a_metric_that_nothing_measures_is_told_with_those_there_are(tmp_path: Path) -> None:
    rule = StopBelow(metric="loss/nett", below=0.4, smoothed_over=4)
    with pytest.raises(stage.StageError, match=r"watches loss/nett, .* known: grad_norm/net, loss/error, loss/net\."):
        train_toy(tmp_path, params(stop_when=rule))


def test_a_network_may_have_its_own_optimizer_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    lion = NetworkTraining(optimizer=optimizer_block(OPTIMIZERS[4]), schedule=schedule_block(SCHEDULES[3]))
    _, done = train_toy(tmp_path, params(steps=4, per_network={"net": lion}))
    rows = [row for row in read_rows(done.work / "rows.jsonl") if "lr/net" in row]
    assert rows[-1]["lr/net"] == pytest.approx(0.0015)
    blocks = own_blocks(done, ("net", "other"))
    assert blocks["net"].optimizer.name == "lion" and blocks["other"].optimizer.name == "muon"
    with pytest.raises(ParamsError, match="net is not trained here; known: critic"):
        own_blocks(done, ("critic",))


class WithTables(nn.Module):
    """A layer, a table added row by row, an embedding that is called something else, and packed attention weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale_shift_table = nn.Parameter(torch.randn(6, 4))
        self.words = nn.Embedding(8, 4)
        self.attention = nn.MultiheadAttention(4, 2)


def test_muon_trains_matrices_of_layers_and_no_tables() -> None:
    """Whatever its shape: orthogonalising a table would mix its rows."""
    network = WithTables()
    block = TypeAdapter(Optimizer).validate_python(next(one for one in OPTIMIZERS if one["name"] == "muon"))
    optimizer = NetworkOptimizer(network, block)
    taken = {id(parameter) for parameter, _ in optimizer.views}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in taken}
    assert names == {"linear.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert len(taken) + len(optimizer.plain) == len(list(network.parameters()))
