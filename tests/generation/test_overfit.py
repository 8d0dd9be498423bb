"""Eight clips, each with its own prompt, are learned by heart: sampling a prompt from noise gives its clip back."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.flow.params import Sampling
from pipelines.flow.sampling import Phase, frame_noise, seeded_noise, walk
from pipelines.generation.anchored_flow import AnchoredFlow
from pipelines.generation.rectified_flow import RectifiedFlow
from pipelines.training.optimizers import NetworkOptimizer
from tests.generation.toy import CHANNELS, CLASSES, DIM, FRAMES, SIDE, UNIFIED, anchored, denoiser, rectified

CLIPS, STEPS, COPIES = 8, 200, 2
SAMPLING = Sampling.model_validate({"sampler": "heun", "steps": 10, "shift": 1.0, "guidance": None})
EMPTY = torch.zeros(1, DIM)
SIZE = {"head_dim": 24, "layers": 2, "feed_forward": 96}


def eight() -> dict[str, Tensor]:
    """Clips of unit variance that move down by a row a frame, each with one prompt vector of its own."""
    world = np.random.default_rng(3)
    first = world.standard_normal((CLIPS, CHANNELS, 1, SIDE, SIDE))
    clips = np.concatenate([np.roll(first, frame, axis=3) for frame in range(FRAMES)], axis=2)
    return {
        "latents": torch.from_numpy(clips).float(),
        "prompt_embeds": torch.from_numpy(world.standard_normal((CLIPS, 1, DIM))).float(),
        "prompt_mask": torch.ones(CLIPS, 1, dtype=torch.bool),
        "pseudo_class": torch.arange(CLIPS) % CLASSES,
    }


def learn(objective: RectifiedFlow | AnchoredFlow, clips: dict[str, Tensor]) -> None:
    training = rectified().training
    optimizer = NetworkOptimizer(objective.denoiser, training.optimizer)
    batch = {name: value.repeat(COPIES, *[1] * (value.ndim - 1)) for name, value in clips.items()}
    for step in range(STEPS):
        torch.manual_seed(step)
        objective.losses(batch, step)["denoiser"].loss.mean().backward()
        optimizer.step(1 - step / STEPS)
    objective.denoiser.eval()


def straight() -> tuple[RectifiedFlow, list[Phase], bool]:
    params = rectified(prompt_dropout=0.0)
    network = denoiser(**SIZE)
    return RectifiedFlow(network, params.draw, 0.0, EMPTY, tokens=lambda _: 12), [Phase(network, SAMPLING)], False


def through_anchor() -> tuple[AnchoredFlow, list[Phase], bool]:
    params = anchored(**UNIFIED, prompt_dropout=0.0, class_dropout=0.0)
    network, junction = denoiser(CLASSES, **SIZE), params.anchor.junction
    phases = [Phase(network, SAMPLING, 1.0, junction, still=True), Phase(network, SAMPLING, junction, 0.0)]
    return AnchoredFlow(network, params, EMPTY, tokens=lambda _: 12), phases, True


@pytest.mark.costly
@pytest.mark.parametrize("make", [straight, through_anchor], ids=["rectified", "anchored"])
def test_eight_clips_are_reproduced_from_their_prompts(make) -> None:
    clips = eight()
    objective, phases, shared = make()
    learn(objective, clips)
    noise = seeded_noise(range(CLIPS), (CHANNELS, FRAMES, SIDE, SIDE), shared)
    conditions = {name: value for name, value in clips.items() if name != "latents"}
    if isinstance(objective, RectifiedFlow):
        conditions.pop("pseudo_class")
    sampled = walk(phases, noise, conditions, EMPTY)
    distances = torch.cdist(sampled.flatten(1), clips["latents"].flatten(1))
    assert distances.argmin(1).tolist() == list(range(CLIPS))
    error = (sampled - clips["latents"]).square().mean() / clips["latents"].square().mean()
    assert error < 0.2


def opposite() -> dict[str, Tensor]:
    """Two clips of one mean, one middle frame and one prompt that move in opposite ways: the anchor tells nothing."""
    world = np.random.default_rng(5)
    picture, way = world.standard_normal((2, 1, CHANNELS, 1, SIDE, SIDE))
    steps = np.linspace(-1.0, 1.0, FRAMES)[None, None, :, None, None]
    clips = np.concatenate([picture + way * steps, picture - way * steps])
    return {
        "latents": torch.from_numpy(clips).float(),
        "prompt_embeds": torch.from_numpy(world.standard_normal((1, 1, DIM))).float().repeat(2, 1, 1),
        "prompt_mask": torch.ones(2, 1, dtype=torch.bool),
        "pseudo_class": torch.zeros(2, dtype=torch.long),
    }


@pytest.mark.costly
@pytest.mark.parametrize("tau", [0.5, 0.0])
def test_a_network_trained_on_two_opposite_motions_samples_both_and_never_without_noise_of_frames(tau: float) -> None:
    clips, count = opposite(), 24
    place = {"junction": 0.2, "first_frame_weight": 0.0, "noise_std": 0.0, "frame_noise_std": tau}
    params = anchored("motion", anchor=place, prompt_dropout=0.0, class_dropout=0.0)
    network = denoiser(CLASSES, **SIZE)
    several = {name: value.repeat(4, *[1] * (value.ndim - 1)) for name, value in clips.items()}
    learn(AnchoredFlow(network, params, EMPTY, tokens=lambda _: 12), several)
    told = {name: clips[name][:1].repeat(count, *[1] * (clips[name].ndim - 1)) for name in clips if name != "latents"}
    middle = clips["latents"].mean((0, 2))[None, :, None]
    phase = Phase(network, SAMPLING, 0.2, 0.0, frame_noise_std=tau)
    own = frame_noise(range(count), (CHANNELS, FRAMES, SIDE, SIDE))
    made = walk([phase], middle.expand(count, -1, FRAMES, -1, -1), told, EMPTY, None, own) - middle
    motion = clips["latents"][0] - middle[0]
    along = (made * motion).sum((1, 2, 3, 4)) / motion.square().sum()
    if tau == 0.0:
        assert along.std() < 1e-4, "the anchor decides: every sample is the same, never both"
    else:
        assert (along.abs() > 0.5).float().mean() > 0.8, "one motion or the other, not what lies between"
        assert 0.2 < (along > 0).float().mean() < 0.8, "and both are shown"
