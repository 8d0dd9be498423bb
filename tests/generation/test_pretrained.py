"""Training from pretrained transformers of the true format at toy width: adapters, whole networks, first frames."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pipelines.flow import anchored as anchored_math
from pipelines.generation import rectified_flow
from pipelines.generation.anchored_flow import AnchoredFlow
from pipelines.generation.latents import Latents
from pipelines.generation.rectified_flow import RectifiedFlow
from pipelines.generation.trained import new_denoiser
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.lora import FILE
from pipelines.stage import StageError
from pipelines.training.generator import Generator
from tests.generation.test_objectives import denoiser, loss
from tests.generation.test_stages import PROMPT, World, numbers
from tests.generation.toy import CHANNELS, DIM, FRAMES, SIDE, anchored, batch, rectified
from tests.models.tiny_pretrained import block, ltx, save, wan, wan_vae

MADE = {"wan": wan, "ltx": ltx}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def weights(folder: Path) -> bytes:
    return (folder / "transformer/diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.costly
@pytest.mark.parametrize("name", MADE)
def test_an_adapter_is_trained_on_a_base_that_stays(world, name):
    base = save(world.folder / name, MADE[name]())
    before = weights(base)
    places = world.places("flow")
    params = rectified(steps=3, denoiser=block(base), first_frame_share=0.5)
    rectified_flow.train(params, world.latents, **places)
    assert weights(base) == before
    assert (places["out"] / FILE).is_file() and (places["out"] / "ema" / FILE).is_file()
    assert not list(places["out"].rglob("diffusion*"))
    found = numbers(world, "flow")
    assert found["validation/loss"] > 0 and found["validation/loss_from_first_frame"] > 0

    generator = Generator.load(places["out"])
    first = torch.randn(2, CHANNELS, 1, SIDE, SIDE)
    one, other = (generator.sample({**PROMPT, "first_frame": given}, seeds=[3, 4]) for given in (first, first + 1))
    assert torch.equal(one[:, :, :1], first) and not torch.allclose(one[:, :, 1:], other[:, :, 1:])
    longer = generator.sample(PROMPT, seeds=[3, 4], shape=(CHANNELS, FRAMES + 2, SIDE, SIDE + 2))
    assert longer.shape == (2, CHANNELS, FRAMES + 2, SIDE, SIDE + 2)


@pytest.mark.costly
def test_a_whole_pretrained_network_is_trained_and_loads_with_diffusers_alone(world):
    base = save(world.folder / "wan", wan())
    places = world.places("flow")
    rectified_flow.train(rectified(steps=2, denoiser=block(base, lora=False)), world.latents, **places)
    tuned, before = type(wan()).from_pretrained(places["out"]), wan()
    assert any(not torch.equal(p, q) for p, q in zip(tuned.parameters(), before.parameters(), strict=True))
    assert Generator.load(places["out"]).sample(PROMPT, seeds=[3, 4]).shape == (2, CHANNELS, FRAMES, SIDE, SIDE)


@pytest.mark.slow
def test_an_adapters_training_continues_exactly_where_it_stopped(world):
    denoised = block(save(world.folder / "wan", wan()))
    straight = {"shape": "constant", "warmup_steps": 0}
    values = rectified(steps=4, denoiser=denoised).model_dump(mode="json")
    values["training"] |= {"schedule": straight, "save_every": 2}
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for steps in stops:
            values["training"]["steps"] = steps
            rectified_flow.train(type(rectified()).model_validate(values), world.latents, **world.places(name))
    whole, parts = ((world.places(name)["out"] / FILE).read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.slow
def test_both_stages_of_anchored_flow_train_adapters_of_one_base(world):
    denoised = block(save(world.folder / "ltx", ltx()))
    identity = world.anchored(anchored(denoiser=denoised, steps=2), "identity")
    motion = world.anchored(anchored("motion", denoiser=denoised, steps=2), "motion", identity)
    assert (motion / "identity" / FILE).is_file() and (motion / "denoiser" / FILE).is_file()
    sampled = Generator.load(motion).sample({**PROMPT, "pseudo_class": torch.tensor([0, -1])}, seeds=[1, 2])
    assert sampled.shape == (2, CHANNELS, FRAMES, SIDE, SIDE)


def test_latents_of_another_autoencoder_are_refused_before_anything_is_built(world):
    params = rectified(denoiser=block(save(world.folder / "wan", wan(), wan_vae())))
    with pytest.raises(StageError, match="latents of autoencoder toy, whose latents_mean are not those"):
        rectified_flow.train(params, world.latents, **world.places("flow"))
    odd = block(save(world.folder / "odd", wan(patch_size=(1, 3, 2))))
    with pytest.raises(StageError, match=r"axis H of the latents has 4, denoiser\.patch cuts it by 3"):
        rectified_flow.train(rectified(denoiser=odd), world.latents, **world.places("flow"))


def test_small_updates_are_not_lost_in_rounded_weights():
    with pytest.raises(
        ValidationError, match=r"trained: full needs pretrained\.weights: fp32, because bf16 loses small"
    ):
        rectified(denoiser=block(Path("base"), lora=False, weights="bf16"))


# ---- first frames -------------------------------------------------------------------------------------------------


def with_first_frames(share: float) -> RectifiedFlow:
    return RectifiedFlow(denoiser(), rectified().draw, 0.0, torch.zeros(1, DIM), lambda _: 12, first_frame_share=share)


def test_a_given_frame_has_no_loss_and_no_noise():
    """The network sees it clean, at sigma 0; what it says of that frame does not count."""
    objective, seen = with_first_frames(1.0), []
    network = objective.denoiser

    def spy(x, sigma, **conditions):
        seen.append((x, sigma))
        predicted = network(x, sigma, **conditions)
        return torch.cat([predicted[:, :, :1] + 100, predicted[:, :, 1:]], dim=2)

    given = batch()
    expected = loss(objective, given)
    objective.denoiser = spy
    torch.testing.assert_close(loss(objective, given), expected)
    (x, sigma), *_ = seen
    assert torch.equal(x[:, :, 0], given["latents"][:, :, 0]) and not sigma[:, 0].any() and sigma[:, 1:].all()


def test_the_share_says_how_many_samples_are_given_their_first_frame():
    assert not torch.equal(loss(with_first_frames(1.0)), loss(with_first_frames(0.0)))
    counts, objective = [], with_first_frames(0.5)
    objective.denoiser = lambda x, sigma, **_: counts.append((sigma[:, 0] == 0).sum()) or x
    for seed in range(40):
        loss(objective, seed=seed)
    assert 90 < sum(map(int, counts)) < 150  # of 240


@pytest.mark.costly
def test_clips_of_one_latent_frame_are_images_and_have_nothing_to_go_on_to(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.generation.toy.FRAMES", 1)
    world = World(tmp_path)
    places = world.places("image")
    with pytest.raises(StageError, match=r"one latent frame, so rectified_flow\.first_frame_share 0\.5 leaves nothing"):
        rectified_flow.train(rectified(first_frame_share=0.5), world.latents, **places)
    rectified_flow.train(rectified(steps=1), world.latents, **places)
    assert Generator.load(places["out"]).sample(PROMPT, seeds=[0, 1]).shape == (2, CHANNELS, 1, SIDE, SIDE)


@pytest.mark.parametrize("name", MADE)
def test_stage_1_starts_at_the_bases_own_task(world, name):
    """One frame with the noise it holds, told as the base was: before any update the velocities are the base's own."""
    network = MADE[name]()
    folder = save(world.folder / name, network)
    told_classes = {"wan": 0.0, "ltx": 1.0}[name]  # LTX-Video attends to a known class's token, though it is empty
    params = anchored(denoiser=block(folder), prompt_dropout=0.0, class_dropout=told_classes)
    data = Latents(world.latents)
    wrapped = new_denoiser(params.denoiser, data, num_classes=3).eval()
    seen: list[dict[str, torch.Tensor]] = []

    def spy(x, told, **conditions):
        made = wrapped(x, told, **conditions)
        seen.append({"x": x, "told": told, "made": made, **conditions})
        return made

    given = batch()
    with torch.no_grad():
        AnchoredFlow(spy, params, torch.zeros(1, DIM), lambda _: 12).losses(given, 0)  # type: ignore[arg-type]
        (asked,) = seen
        alone = VideoDenoiser(network, params.denoiser.text_length, None, data.extent)
        base = alone(asked["x"], asked["told"], asked["prompt_embeds"], asked["prompt_mask"])
    assert asked["x"].shape[2] == 1
    torch.testing.assert_close(asked["made"], base)
    anchor = anchored_math.anchor(given["latents"], params.anchor.first_frame_weight, 0.0)
    told = asked["told"][:, :, None, None, None]
    held = (asked["x"] - (1.0 - told) * anchor).flatten(1).std(1)
    torch.testing.assert_close(held, asked["told"][:, 0], atol=0.3, rtol=0.0)
