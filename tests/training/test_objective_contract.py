"""Every objective holds the contract, and the check names every way of breaking it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.training.objective import LossOutput
from pipelines.training.objective_contract import BreachError, check_objective
from tests.training.objectives import CASES

ANCHOR = {"junction": 0.2, "first_frame_weight": 0.9, "noise_std": 0.05, "frame_noise_std": 0.5}
KNOBS: dict[str, list[dict[str, Any]]] = {
    "latent_mae transformer": [{"mask": {"shape": "patch"}}, {"mask": {"ratio": 0.5}}],
    "rectified_flow": [
        {"draw": {"name": "uniform", "shift": 5.0}},
        {"draw": {"name": "logit_normal", "mean": 0.0, "std": 1.0, "shift": 1.0}},
        {"prompt_dropout": 1.0},
        {"first_frame_share": 1.0},
    ],
    "anchored_flow unified": [
        {"anchor": {**ANCHOR, "junction": 0.3}},
        {"anchor": {**ANCHOR, "first_frame_weight": 0.2}},
        {"anchor": {**ANCHOR, "noise_std": 0.5}},
        {"anchor": {**ANCHOR, "frame_noise_std": 0.1}},
        {"sigma_range": [0.1, 0.9]},
        {"draw": {"name": "mode", "scale": 1.0}},
        {"loss_weights": {"identity": 1.0, "motion": 10.0}},
        {"loss_weights": {"identity": 0.5, "motion": 1.0}},
        {"motion_gain": {"value": 3.0, "warmup_steps": 0}},
        {"prompt_dropout": 1.0},
        {"class_dropout": 1.0},
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_objectives_hold_the_contract_and_every_knob_matters(name: str) -> None:
    case = CASES[name]()
    check_objective(
        case.make, case.batch, knobs={str(knob): partial(case.make, **knob) for knob in KNOBS.get(name, [])}
    )


def test_both_terms_of_anchored_flow_reach_the_weights() -> None:
    case = CASES["anchored_flow unified"]()
    almost = {
        term: partial(case.make, loss_weights={"identity": 1.0, "motion": 1.0, term: 1e-9})
        for term in ("identity", "motion")
    }
    check_objective(case.make, case.batch, terms=almost)


# ---- the check itself -----------------------------------------------------------------------------------------------


class Good:
    """Two networks that play against each other; each variant below breaks one rule."""

    trained: tuple[str, ...] = ("net", "critic")
    reads: tuple[str, ...] = ("x",)

    def __init__(self, weight: float = 1.0) -> None:
        torch.manual_seed(0)
        self.net, self.critic, self.weight = nn.Linear(3, 3), nn.Linear(3, 1), weight

    def losses(self, batch, step, network):
        made = self.net(batch["x"] + 0.1 * torch.randn_like(batch["x"]))
        if network == "critic":
            return {"critic": LossOutput(self.critic(made)[:, 0] - self.critic(batch["x"])[:, 0])}
        return {"net": LossOutput(self.weight * -self.critic(made)[:, 0] + made.square().mean(1))}


class Leaks(Good):
    def losses(self, batch, step, network):
        self.critic.requires_grad_(True)
        return super().losses(batch, step, network)


class Both(Good):
    def losses(self, batch, step, network):
        return super().losses(batch, step, "net") | super().losses(batch, step, "critic")


class Unasked(Good):
    def losses(self, batch, step):  # type: ignore[override]
        return super().losses(batch, step, "net")


class Averaged(Good):
    def losses(self, batch, step, network):
        return {name: LossOutput(output.loss.mean()) for name, output in super().losses(batch, step, network).items()}


class Infinite(Good):
    def losses(self, batch, step, network):
        return {name: LossOutput(output.loss / 0.0) for name, output in super().losses(batch, step, network).items()}


class Undeclared(Good):
    def losses(self, batch, step, network):
        assert batch["label"] is not None
        return super().losses(batch, step, network)


class Blind(Good):
    reads = ("x", "label")

    def losses(self, batch, step, network):
        assert batch["label"] is not None
        return super().losses(batch, step, network)


class Idle(Good):
    reads = ("x", "label")


class Remembers(Good):
    calls = 0

    def losses(self, batch, step, network):
        self.calls += 1
        return super().losses({**batch, "x": batch["x"] * self.calls}, step, network)


class InPlace(Good):
    def losses(self, batch, step, network):
        batch["x"].add_(1.0)
        return super().losses(batch, step, network)


class Mode(Good):
    def losses(self, batch, step, network):
        self.net.eval()
        return super().losses(batch, step, network)


class OneSample(Good):
    def losses(self, batch, step, network):
        first = torch.arange(len(batch["x"])) == 0
        outputs = super().losses(batch, step, network)
        return {name: LossOutput(torch.where(first, output.loss, 0.0)) for name, output in outputs.items()}


class Dead(Good):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.net.register_parameter("idle", nn.Parameter(torch.ones(2)))


class Logged(Good):
    def losses(self, batch, step, network):
        outputs = super().losses(batch, step, network)
        return {name: LossOutput(one.loss, metrics={"raw": one.loss.mean()}) for name, one in outputs.items()}


def data() -> dict[str, Any]:
    return {"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), "label": torch.arange(4)}


def test_a_good_objective_passes_with_its_terms_and_knobs() -> None:
    check_objective(Good, data(), terms={"fooled": lambda: Good(0.0)}, knobs={"weight": lambda: Good(2.0)})


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Leaks, "net: its loss leaves gradients in critic"),
        (Both, "answered for net, critic when asked for net"),
        (Unasked, r"several networks are trained \(net, critic\)"),
        (Averaged, "not one value per sample"),
        (Infinite, "not finite"),
        (Undeclared, "reads label, which `reads` does not declare"),
        (Blind, "another label gives the same loss"),
        (Idle, "declares label and never reads it"),
        (Remembers, "asked again it differs"),
        (InPlace, "changed in place"),
        (Mode, "another mode"),
        (OneSample, "the loss of sample 1 has no gradient"),
        (Dead, "no gradient ever reaches idle"),
        (Logged, "raw must be a scalar without gradient"),
    ],
)
def test_a_breach_is_named(broken: type[Good], said: str) -> None:
    with pytest.raises(BreachError, match=said):
        check_objective(broken, data())


def test_idle_terms_and_knobs_are_named() -> None:
    with pytest.raises(BreachError, match="term fooled has no gradient\n- knob weight changes nothing"):
        check_objective(Good, data(), terms={"fooled": Good}, knobs={"weight": Good})
