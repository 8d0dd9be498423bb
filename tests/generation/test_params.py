"""Params of the generators: a knob that could do nothing is refused."""

import re

import pytest
import yaml
from pydantic import ValidationError

from pipelines.generation.params import AnchoredFlowParams
from pipelines.params import ParamsError, parse_section
from tests.generation.toy import ROOT, UNIFIED, anchored, rectified

LITTLE_LOCAL = {
    "loss_weights": {"identity": 1.0, "motion": 0.1},
    "motion_gain": {"value": 1.2, "warmup_steps": 0},
}


@pytest.mark.parametrize(
    ("stage", "change", "told"),
    [
        ("identity", {"sigma_range": [0.2, 1.0], **LITTLE_LOCAL}, "does not reach below the junction 0.2"),
        ("identity", {"loss_weights": {"identity": 1.0, "motion": 0.1}}, "motion_gain needs a block"),
        ("identity", {"motion_gain": {"value": 1.2, "warmup_steps": 0}}, "motion_gain must be null (frames do not"),
        ("identity", {"loss_weights": {"identity": 0.0, "motion": 0.0}}, "both are 0"),
        ("identity", {"validation": {"clips": 4, "levels": 2, "prompts": ["a", " "]}}, "an empty prompt"),
        ("identity", {"validation": {"clips": 4, "levels": 2, "prompts": []}}, "an empty prompt"),
        ("identity", {"sigma_range": [0.1, 1.0]}, "reaches below the junction 0.2, but loss_weights.motion is 0.0"),
        ("motion", {"sigma_range": [0.0, 0.5]}, "reaches above the junction"),
        ("motion", {"sigma_range": [0.2, 0.1]}, "two rising numbers"),
        ("motion", {"sampling": {"identity": None, "motion": None}}, "sampling.motion needs a block"),
        ("identity", {"sampling": UNIFIED["sampling"]}, "sampling.motion must be null"),
    ],
)
def test_settings_that_contradict_each_other_are_told(stage, change, told):
    with pytest.raises(ValidationError, match=re.escape(told)):
        anchored(stage, **change)


def test_the_three_modes_are_a_matter_of_the_weights():
    assert (anchored().has_identity, anchored().has_motion) == (True, False)
    assert (anchored("motion").has_identity, anchored("motion").has_motion) == (False, True)
    both = anchored(**UNIFIED)
    assert both.has_identity and both.has_motion


def test_an_odd_width_of_heads_is_told():
    size = rectified().denoiser.model_dump()
    with pytest.raises(ValidationError, match=r"head_dim\n.*must be even"):
        rectified(denoiser={**size, "head_dim": 7})


def test_zero_is_a_value():
    gain = anchored("motion", motion_gain={"value": 2.0, "warmup_steps": 0}).motion_gain
    assert gain is not None and gain.warmup_steps == 0
    assert rectified(prompt_dropout=0.0).prompt_dropout == 0.0


def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["anchored_flow_identity"]
    values["sigma_range"] = [0.1, 1.0]
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"anchored_flow_identity": values}))
    with pytest.raises(
        ParamsError, match=r"params\.yaml:\d+: anchored_flow_identity: .*a phase has a weight exactly when"
    ):
        parse_section(AnchoredFlowParams, "anchored_flow_identity", file)
