"""The denoiser: what it is told matters, what is masked does not, and diffusers alone loads it."""

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from pipelines.models.denoiser import VideoDenoiser, positions

CHANNELS, DIM, TEXT = 4, 8, 6


def build(num_classes: int | None = 3, zero: bool = False) -> VideoDenoiser:
    torch.manual_seed(0)
    denoiser = VideoDenoiser.build(
        channels=CHANNELS,
        text_dim=DIM,
        heads=2,
        head_dim=12,
        layers=1,
        feed_forward=16,
        patch=(1, 2, 2),
        text_length=TEXT,
        num_classes=num_classes,
    ).eval()
    if not zero:
        torch.nn.init.normal_(denoiser.transformer.proj_out.weight)
        if denoiser.class_embedding is not None:
            torch.nn.init.normal_(denoiser.class_embedding.weight)
    return denoiser


def inputs(length: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(2, CHANNELS, 3, 4, 4),
        "sigma": torch.tensor([[0.3], [0.8]]),
        "prompt_embeds": torch.randn(2, length, DIM),
        "prompt_mask": torch.ones(2, length, dtype=torch.bool),
        "pseudo_class": torch.tensor([0, 2]),
    }


def test_a_new_denoiser_predicts_zero():
    assert not build(zero=True)(**inputs()).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["x", "sigma", "prompt_embeds", "prompt_mask", "pseudo_class"])
def test_every_input_changes_the_velocity(name):
    denoiser, given = build(), inputs()
    changed = {
        "x": given["x"] + 0.1,
        "sigma": given["sigma"] - 0.2,
        "prompt_embeds": given["prompt_embeds"].flip(1) * 2,
        "prompt_mask": torch.tensor([[True, True, False, False]] * 2),
        "pseudo_class": torch.tensor([1, -1]),
    }[name]
    before, after = denoiser(**given), denoiser(**{**given, name: changed})
    assert before.shape == given["x"].shape
    assert all(not torch.allclose(one, other, atol=1e-5) for one, other in zip(before, after, strict=True))


@torch.no_grad()
def test_masked_positions_and_the_length_of_the_padding_have_no_influence():
    denoiser, given = build(), inputs()
    given["prompt_mask"][:, 3:] = False
    expected = denoiser(**given)
    given["prompt_embeds"][:, 3:] = 99.0
    torch.testing.assert_close(denoiser(**given), expected)
    shorter = {**given, "prompt_embeds": given["prompt_embeds"][:, :3], "prompt_mask": given["prompt_mask"][:, :3]}
    torch.testing.assert_close(denoiser(**shorter), expected)


@torch.no_grad()
def test_a_level_per_frame_of_equal_values_is_a_level_per_clip():
    denoiser, given = build(), inputs()
    per_frame = {**given, "sigma": given["sigma"].expand(-1, 3)}
    torch.testing.assert_close(denoiser(**per_frame), denoiser(**given), atol=1e-5, rtol=1e-4)
    other = {**given, "sigma": torch.tensor([[0.0, 0.3, 0.3], [0.0, 0.8, 0.8]])}
    assert not torch.allclose(denoiser(**other), denoiser(**given), atol=1e-4)


@torch.no_grad()
def test_where_something_stands_is_known_even_in_a_uniform_clip():
    """Rotary attention alone would give every token of a constant clip the same velocity."""
    given = inputs()
    velocity = build()(**{**given, "x": torch.ones_like(given["x"])})
    corners = velocity[0, :, 0, ::2, ::2]
    assert not torch.allclose(corners[:, 0, 0], corners[:, 1, 1], atol=1e-3)
    assert positions(1, 2, 3, given["x"])[4].tolist() == [[[-1.0, 0.0, 1.0]] * 2]


@torch.no_grad()
def test_an_unknown_class_is_no_class():
    denoiser, given = build(), inputs()
    without = {name: value for name, value in given.items() if name != "pseudo_class"}
    unknown = {**given, "pseudo_class": torch.tensor([-1, -1])}
    assert torch.equal(denoiser(**without), denoiser(**unknown))


@torch.no_grad()
@pytest.mark.parametrize("length", [4, TEXT - 1])
def test_a_class_starts_at_zero_as_if_there_were_none(length):
    """In the place of padding it changes nothing at all: a pretrained network starts with its own velocities."""
    plain, knows = build(num_classes=None), build(zero=True)
    knows.transformer.load_state_dict(plain.transformer.state_dict())
    given = inputs(length)
    told = given.pop("pseudo_class")
    assert torch.equal(knows(**given, pseudo_class=told), plain(**given))
    other = knows(**given, pseudo_class=1 - told.clamp_max(1))
    assert torch.equal(knows(**given, pseudo_class=told), other)


@torch.no_grad()
def test_a_class_has_a_place_of_its_own_so_no_sample_hears_how_long_its_neighbours_prompts_are():
    knows, short = build(), inputs(4)
    padded = {**short, "prompt_embeds": torch.nn.functional.pad(short["prompt_embeds"], (0, 0, 0, TEXT - 4)),
              "prompt_mask": torch.nn.functional.pad(short["prompt_mask"], (0, TEXT - 4))}  # fmt: skip
    assert torch.equal(knows(**short), knows(**padded))
    padded["prompt_mask"][0] = True
    with pytest.raises(ValueError, match=f"{TEXT} tokens, this denoiser takes {TEXT - 1}"):
        knows(**padded)


@torch.no_grad()
def test_a_single_frame_stands_for_a_patch_of_equal_frames():
    denoiser = VideoDenoiser.build(
        channels=CHANNELS, text_dim=DIM, heads=2, head_dim=12, layers=1, feed_forward=16, patch=(2, 2, 2), text_length=6
    ).eval()
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight)
    given = {**inputs(), "x": torch.randn(2, CHANNELS, 1, 4, 4)}
    given.pop("pseudo_class")
    made = denoiser(**given)
    assert made.shape == given["x"].shape
    repeated = {**given, "x": given["x"].expand(-1, -1, 2, -1, -1)}
    torch.testing.assert_close(made, denoiser(**repeated).mean(2, keepdim=True))


@torch.no_grad()
def test_a_saved_denoiser_comes_back_and_its_transformer_loads_with_diffusers_alone(tmp_path: Path):
    denoiser, given = build(), inputs()
    denoiser.save_pretrained(tmp_path)
    again = VideoDenoiser.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**given), denoiser(**given))
    alone = WanTransformer3DModel.from_pretrained(tmp_path).eval()
    plain, text = build(num_classes=None), inputs()
    plain.transformer.load_state_dict(alone.state_dict())
    padded = torch.nn.functional.pad(text["prompt_embeds"], (0, 0, 0, TEXT - 4))
    placed = torch.cat([text["x"], positions(3, 4, 4, text["x"]).expand(2, -1, -1, -1, -1)], 1)
    theirs = alone(placed, 1000 * text["sigma"][:, 0], padded, return_dict=False)[0]
    text.pop("pseudo_class")
    torch.testing.assert_close(plain(**text), theirs)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"prompt has 7 tokens, this denoiser takes 5"):
        build()(**inputs(length=7))
    with pytest.raises(ValueError, match="built without classes"):
        build(num_classes=None)(**inputs())
