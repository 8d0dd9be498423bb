"""Pretrained denoisers: the transformer is told what its own pipeline tells it, and what does not fit is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.flow.first_frame import levels
from pipelines.models.backbones import packed, unpacked
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.lora import add_lora
from pipelines.models.pretrained_denoiser import Given, Origin, check_fits, identity
from pipelines.params import Lora
from pipelines.stage import StageError
from tests.models.tiny_pretrained import TARGETS, ltx, ltx_vae, save, wan, wan_vae

FRAMES, HEIGHT, WIDTH, DIM, LENGTH = 3, 4, 6, 8, 6


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    return {
        "x": torch.randn(2, 4, FRAMES, HEIGHT, WIDTH),
        "sigma": torch.tensor([[0.3], [0.8]]),
        "prompt_embeds": torch.randn(2, 4, DIM),
        "prompt_mask": mask,
    }


def padded(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt tokens as Wan's pipeline pads them, and LTX-Video's mask."""
    text = torch.zeros(2, LENGTH, DIM)
    text[0, :3], text[1, :1] = given["prompt_embeds"][0, :3], given["prompt_embeds"][1, :1]
    return text, torch.nn.functional.pad(given["prompt_mask"], (0, LENGTH - 4))


@torch.no_grad()
def test_wan_is_told_what_its_pipeline_tells_it():
    transformer, given = wan(), inputs()
    theirs = transformer(given["x"], 1000 * given["sigma"][:, 0], padded(given)[0], return_dict=False)[0]
    assert torch.equal(VideoDenoiser(transformer, LENGTH)(**given), theirs)


@torch.no_grad()
def test_wan_goes_on_from_a_first_frame_as_the_5b_pipeline_does():
    """WanImageToVideoPipeline with expand_timesteps: timestep 0 at the tokens of a clean first frame."""
    transformer, given = wan(), inputs()
    mask = torch.ones(FRAMES, HEIGHT, WIDTH)
    mask[0] = 0
    timestep = torch.stack([(mask[:, ::2, ::2] * 1000 * sigma).flatten() for sigma in given["sigma"][:, 0]])
    theirs = transformer(given["x"], timestep, padded(given)[0], return_dict=False)[0]
    sigma = levels(given["sigma"], FRAMES, torch.tensor([True, True]))
    torch.testing.assert_close(VideoDenoiser(transformer, LENGTH)(**{**given, "sigma": sigma}), theirs)


@torch.no_grad()
@pytest.mark.parametrize("first_frame", [False, True])
@pytest.mark.parametrize("patch", [(1, 1), (2, 1)])
def test_ltx_is_told_what_its_pipeline_tells_it(first_frame, patch):
    """LTXPipeline, and with a first frame LTXImageToVideoPipeline: packed tokens, mask, seconds and pixels."""
    side, time = patch
    transformer, given = ltx(channels=4 * side * side, patch_size=side, patch_size_t=time), inputs()
    tokens = HEIGHT * WIDTH // side**2
    timestep = (1000 * given["sigma"]).expand(-1, FRAMES * tokens).clone()
    timestep[:, :tokens] *= not first_frame
    text, mask = padded(given)
    theirs = transformer(
        packed(given["x"], (time, side, side)),
        text,
        timestep if first_frame else timestep[:, 0],
        mask,
        num_frames=FRAMES,
        height=HEIGHT // side,
        width=WIDTH // side,
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]
    sigma = levels(given["sigma"], FRAMES, torch.tensor([first_frame] * 2)) if first_frame else given["sigma"]
    ours = VideoDenoiser(transformer, LENGTH, extent=(8 / 25, 32.0))(**{**given, "sigma": sigma})
    assert ours.shape == given["x"].shape
    torch.testing.assert_close(packed(ours, (time, side, side)), theirs)


def test_packing_is_that_of_diffusers_and_has_an_inverse():
    from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline

    x = torch.randn(2, 4, 4, 6, 8)
    for time, side in ((1, 1), (1, 2), (2, 2)):
        tokens = packed(x, (time, side, side))
        assert torch.equal(tokens, LTXPipeline._pack_latents(x, side, time))
        grid = (4 // time, 6 // side, 8 // side)
        assert torch.equal(unpacked(tokens, grid, (time, side, side)), x)


@torch.no_grad()
@pytest.mark.parametrize("make", [wan, ltx])
def test_one_frame_is_the_image_case_and_masked_tokens_have_no_influence(make):
    denoiser, given = VideoDenoiser(make(), LENGTH, extent=(0.5, 8.0)), inputs()
    image = {**given, "x": given["x"][:, :, :1]}
    expected = denoiser(**image)
    assert expected.shape == (2, 4, 1, HEIGHT, WIDTH)
    image["prompt_embeds"] = given["prompt_embeds"].masked_fill(~given["prompt_mask"][..., None], 9.0)
    torch.testing.assert_close(denoiser(**image), expected)


@torch.no_grad()
@pytest.mark.parametrize("make", [wan, ltx])
def test_an_adapter_is_saved_alone_and_comes_back_on_its_base(make, tmp_path: Path):
    origin = Origin(str(save(tmp_path / "base", make())), None, "transformer", "fp32")
    transformer = add_lora(origin.load(), Lora(rank=2, alpha=4.0, targets=tuple(TARGETS)))
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    denoiser, given = VideoDenoiser(transformer, LENGTH, 3, (0.5, 8.0), origin).eval(), inputs()
    denoiser.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("diffusion*"))
    again = VideoDenoiser.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(again(**given), denoiser(**given))
    trained = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, p in denoiser.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name.startswith("class_embedding") for name in trained)

    save(tmp_path / "base", make(seed=1))
    with pytest.raises(StageError, match=r"adapter: a LoRA for another base: trained on .*base/transformer"):
        VideoDenoiser.from_pretrained(tmp_path / "adapter")


def test_a_network_is_the_same_however_its_weights_are_held(tmp_path: Path):
    folder = save(tmp_path, wan())
    one, half = (Origin(str(folder), None, "transformer", weights).load() for weights in ("fp32", "bf16"))
    assert identity(one) == identity(half) != identity(wan(seed=1))
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    given = inputs()
    with torch.no_grad():
        exact, rounded = (VideoDenoiser(network, LENGTH)(**given) for network in (one, half))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


def given_latents(vae: Any, channels: int = 4, dim: int = DIM) -> Given:
    mean = [0.1 * n for n in range(channels)]
    return Given(Path("data/latents"), channels, dim, "some-vae", mean, [vae] * channels)


def test_what_does_not_fit_the_latents_is_told_before_anything_is_loaded(tmp_path: Path):
    origin = Origin(str(save(tmp_path / "wan", wan(), wan_vae())), None, "transformer", "fp32")
    layout = origin.layout()
    check_fits(origin, layout, given_latents(1.5))
    with pytest.raises(StageError, match=r"made for latents of 4 channels, but data/latents holds 16, of autoencoder"):
        check_fits(origin, layout, given_latents(1.5, 16))
    with pytest.raises(StageError, match=r"takes prompt tokens of width 8, but data/latents holds 32"):
        check_fits(origin, layout, given_latents(1.5, dim=32))
    with pytest.raises(StageError, match=r"latents_std are not those of the autoencoder that .*Encode the clips with"):
        check_fits(origin, layout, given_latents(1.0))
    image = Origin(str(save(tmp_path / "i2v", wan(in_channels=12))), None, "transformer", "fp32")
    with pytest.raises(StageError, match=r"it takes 12 channels and gives 4\), which the shards cannot feed"):
        check_fits(image, image.layout(), given_latents(1.5))
    other = Origin(str(save(tmp_path / "ltx", ltx(), ltx_vae())), None, "transformer", "fp32")
    check_fits(other, other.layout(), given_latents(1.0))


def test_what_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StageError, match=r"cannot be loaded: .*\nGive an existing folder"):
        Origin(str(tmp_path / "nowhere"), None, None, "fp32").layout()
    wan_vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(StageError, match="a transformer of class AutoencoderKLWan; understood are Wan"):
        Origin(str(tmp_path), None, "vae", "fp32").layout()
    save(tmp_path, wan())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        StageError, match=r"weights nf4: bitsandbytes is not installed; `pip install 'reelgraph\[eight-bit"
    ):
        Origin(str(tmp_path), None, "transformer", "nf4").load()
    monkeypatch.undo()
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(StageError, match="cannot be loaded"):
        Origin(str(tmp_path), None, "transformer", "fp32").load()
