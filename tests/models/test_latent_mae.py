"""The masked autoencoders: masks, what a hidden place may tell, feature lists, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipelines.models.feature_list import (
    at_rest,
    feature_list,
    map_features,
    moving,
    path,
    places,
    spread,
    windows,
)
from pipelines.models.latent_mae import LatentMae, draw_mask
from pipelines.models.transformer_mae import TransformerBlock
from pipelines.training.precision import computing

TRANSFORMER = {
    "family": "transformer",
    "patch": [1, 2, 2],
    "width": 24,
    "depth": 2,
    "heads": 2,
    "decoder_width": 24,
    "decoder_depth": 1,
}
CONV = {"family": "conv", "patch": [1, 2, 2], "width": 8, "blocks": [1, 1], "temporal_kernel": 3, "locations": 3}
FAMILIES = pytest.mark.parametrize("architecture", [TRANSFORMER, CONV], ids=["transformer", "conv"])


def latents(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))


# ---- masks --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(ratio=st.floats(0.01, 0.99), shape=st.sampled_from(["tube", "patch"]), side=st.integers(2, 4))
def test_every_sample_hides_equally_many_patches_and_never_all_or_none(ratio: float, shape: str, side: int) -> None:
    mask = draw_mask(5, (3, side, side), ratio, shape)  # type: ignore[arg-type]
    hidden = mask.flatten(1).sum(1)
    assert (hidden == hidden[0]).all()
    assert 0 < int(hidden[0]) < mask[0].numel()


def test_a_tube_hides_the_same_places_in_all_frames() -> None:
    mask = draw_mask(4, (5, 4, 4), 0.75, "tube")
    assert (mask == mask[:, :1]).all()
    assert int(mask[0, 0].sum()) == 12


@FAMILIES
def test_the_prediction_does_not_depend_on_what_is_hidden(architecture: dict) -> None:
    mae, x = LatentMae(4, architecture).eval(), latents()
    mask = draw_mask(2, mae.grid(x.shape), 0.5, "patch")
    other = torch.where(mae.hidden(mask), torch.randn_like(x), x)
    torch.testing.assert_close(mae(x, mask), mae(other, mask))
    seen = torch.where(mae.hidden(mask), x, torch.randn_like(x))
    assert not torch.allclose(mae(x, mask), mae(seen, mask))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_is_attention_and_mlp_as_torch_computes_them(precision: str) -> None:
    block, tolerance = TransformerBlock(16, 4), {"fp32": 1e-5, "bf16": 3e-2}[precision]
    x = torch.randn(3, 7, 16)
    query, key, value = block.qkv(block.norm_attention(x)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    between = x + block.out(attended)
    expected = between + block.down(nn.functional.gelu(block.up(block.norm_mlp(between)), approximate="tanh"))
    with computing(precision, torch.device("cpu")):
        found = block(x)
    weights = list(block.parameters())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for own, plain in zip(*(torch.autograd.grad(y.square().sum(), weights) for y in (found, expected)), strict=True):
        assert (own - plain).norm() <= tolerance * plain.norm() + 1e-4


def test_patches_and_latents_are_inverses() -> None:
    mae, x = LatentMae(4, TRANSFORMER), latents()
    patches, grid = mae.backbone._patches(x)  # type: ignore[union-attr,operator]
    assert patches.shape == (2, 12, 16)
    assert torch.equal(mae.backbone._latents(patches, grid), x)  # type: ignore[union-attr,operator]


def test_latents_that_are_no_whole_number_of_patches_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 5, 4\).*\(1, 2, 2\)"):
        LatentMae(4, TRANSFORMER).grid((2, 4, 3, 5, 4))


@FAMILIES
def test_it_learns_to_fill_in(architecture: dict) -> None:
    torch.manual_seed(0)
    mae = LatentMae(4, architecture)
    x = latents(1)[:, :, :1, :1, :1].expand(8, 4, 3, 4, 4) * torch.randn(8, 1, 1, 1, 1)  # constant clips
    optimizer = torch.optim.AdamW(mae.parameters(), lr=5e-3)
    errors = []
    for _ in range(40):
        mask = draw_mask(8, mae.grid(x.shape), 0.5, "tube")
        hidden = mae.hidden(mask)
        loss = ((mae(x, mask) - x).square() * hidden).sum() / hidden.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.3 * errors[0]


# ---- features -----------------------------------------------------------------------------------------------------


@FAMILIES
def test_features_are_vectors_of_every_sample_by_itself(architecture: dict) -> None:
    mae, x = LatentMae(4, architecture).eval(), latents(3)
    found, alone = mae.features(x), mae.features(x[1:2])
    assert all(value.shape[0] == 3 and value.ndim == 2 for value in found.values())
    for name, value in found.items():
        torch.testing.assert_close(value[1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_a_clip_of_another_length_has_features_too() -> None:
    mae = LatentMae(4, TRANSFORMER)
    assert mae.features(torch.randn(1, 4, 7, 4, 4))["block2_mean"].shape == (1, 24)


def test_the_list_of_maps_has_the_names_and_numbers_of_the_definition() -> None:
    x = torch.randn(2, 4, 8, 8)
    found = feature_list(x, [torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 5, 2, 2)], 5)
    assert len(found) == 51
    torch.testing.assert_close(found["input_x2_mean"], x.square().mean((2, 3)))


def test_windows_hold_the_right_cells() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    cells = windows(x, 2)
    assert cells.shape == (1, 1, 2, 2, 4)
    assert cells[0, 0, 0, 1].tolist() == [2, 3, 6, 7]
    found = map_features(x, "s1", 5)
    assert found["s1_k2_mean_loc_0001"].item() == 4.5
    assert found["s1_global_mean"].item() == 7.5
    torch.testing.assert_close(found["s1_k4_std_loc_0000"], x.flatten(2).std(2, unbiased=False))


def test_places_are_evenly_spread_and_never_twice() -> None:
    assert places(64, 5) == [0, 16, 32, 47, 63]
    assert places(4, 5) == [0, 1, 2, 3]
    assert places(1, 5) == [0]


def test_a_constant_has_the_floor_as_its_spread_and_a_finite_gradient() -> None:
    x = torch.ones(1, 2, 9, requires_grad=True)
    spread(x, 2).sum().backward()
    assert spread(x.detach(), 2).eq(1e-3).all()
    assert x.grad is not None and x.grad.isfinite().all()


def moving_dot(row: int) -> torch.Tensor:
    """A bright dot that goes from left to right in a row over a background of ones."""
    x = torch.ones(1, 2, 5, 5, 5)
    for frame in range(5):
        x[0, :, frame, row, frame] = torch.tensor([9.0, -9.0])
    return x


def test_the_path_follows_the_thing_that_moves() -> None:
    clip = moving_dot(row=1)
    found = path(clip, at_rest(clip))
    rows, columns = found[0, :5], found[0, 5:]
    torch.testing.assert_close(rows, torch.full((5,), -0.5), atol=0.01, rtol=0)
    assert (columns.diff() > 0.2).all()
    assert not torch.allclose(rows, path(moving_dot(row=3), at_rest(moving_dot(row=3)))[0, :5])


def test_moving_is_the_thing_and_not_the_background() -> None:
    clip = moving_dot(row=2)
    found = moving(clip, at_rest(clip))
    assert found[0, 0] > 7.5
    assert found[0, 1] < -7.0
    still = torch.randn(1, 2, 1, 5, 5).expand(1, 2, 4, 5, 5)
    torch.testing.assert_close(moving(still, at_rest(still)), still.mean((2, 3, 4)), rtol=1e-3, atol=1e-4)


# ---- files --------------------------------------------------------------------------------------------------------


@FAMILIES
def test_a_saved_network_comes_back_exactly(architecture: dict, tmp_path: Path) -> None:
    mae = LatentMae(4, architecture).eval()
    mae.save_pretrained(tmp_path)
    again, x = LatentMae.from_pretrained(tmp_path), latents()
    assert not again.training
    for name, value in mae.features(x).items():
        assert torch.equal(value, again.features(x)[name]), name


def test_a_partly_fitting_file_is_refused(tmp_path: Path) -> None:
    LatentMae(4, TRANSFORMER).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit config\.json"):
        LatentMae.from_pretrained(tmp_path)


def test_a_config_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(ValueError, match="not the config of a latent MAE"):
        LatentMae.from_pretrained(tmp_path)


@pytest.mark.parametrize("architecture", [TRANSFORMER, CONV], ids=["transformer", "conv"])
def test_a_still_clip_has_no_path_and_no_trajectory_in_any_layer(architecture: dict) -> None:
    torch.manual_seed(0)
    mae = LatentMae(4, architecture).eval()
    still = torch.randn(2, 4, 1, 8, 8).expand(2, 4, 3, 8, 8).contiguous()
    with torch.no_grad():
        found, moved = mae.features(still), mae.features(torch.randn(2, 4, 3, 8, 8))
    names = [name for name in found if name.endswith(("_path", "_trajectory"))]
    assert len(names) >= 6
    for name in names:
        assert found[name].abs().max() < 1e-5, name
        assert moved[name].abs().max() > 1e-3, name


def test_keyframes_keep_their_places_in_time() -> None:
    torch.manual_seed(0)
    mae, clip = LatentMae(4, TRANSFORMER).eval(), torch.randn(1, 4, 2, 8, 8)
    near, far = (mae.features(clip, ["block1_mean"], frames)["block1_mean"] for frames in ([0, 1], [0, 4]))
    assert not torch.allclose(near, far)
    torch.testing.assert_close(near, mae.features(clip, ["block1_mean"])["block1_mean"])
