"""A window computed whole says what chunk after chunk says, and learns the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipelines.models import strategies, window
from pipelines.models.frame_attention import Memory, Shared
from pipelines.models.world_model import WorldModel
from pipelines.params import Lora
from pipelines.training.precision import computing
from tests.models.learning import difference, told
from tests.models.tiny_world import given_clips, world

CPU = torch.device("cpu")
WINDOWS = {
    "told one frame": (0, 1, (1, 2), 1),
    "told three": (1, 2, (1, 2, 2), 3),
    "all frames asked for": (1, 2, (1, 2, 2), 0),
    "chunks of one": (0, 9, (1, 1, 1), 2),
}


def both(
    sink: int, seen: int, chunks: tuple[int, ...], first: int
) -> tuple[WorldModel, Callable[[], Tensor], Callable[[], Tensor]]:
    """A network, its velocity chunk after chunk, and of the whole window."""
    model, frames = world(sink=sink, window=seen), sum(chunks)
    latents, actions = given_clips(3, frames)
    given = torch.arange(frames).expand(3, -1) < frames - chunks[-1]
    sigma = torch.where(given, 0.0, torch.rand(3, 1, generator=torch.Generator().manual_seed(4)))
    how = {"actions": actions, "given": given, "first_frame": latents[:, :, :1], "chunks": chunks, "first": first}
    return (
        model,
        lambda: model(latents, sigma, **how, memory=Memory()),
        lambda: window.velocity(model, latents, sigma, **how, shared=Shared()),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("shape", WINDOWS.values(), ids=WINDOWS)
def test_in_float32_velocity_and_every_gradient_are_those_of_chunk_after_chunk(shape: tuple) -> None:
    model, chunkwise, whole = both(*shape)
    for found, wanted in zip(told(model, whole, "fp32"), told(model, chunkwise, "fp32"), strict=True):
        assert difference(found, wanted) < 1e-5


@pytest.mark.parametrize("shape", WINDOWS.values(), ids=WINDOWS)
def test_in_bfloat16_it_is_no_further_from_float32_than_chunk_after_chunk(shape: tuple) -> None:
    model, chunkwise, whole = both(*shape)
    exact = told(model, chunkwise, "fp32")
    for found, rounded, wanted in zip(told(model, whole, "bf16"), told(model, chunkwise, "bf16"), exact, strict=True):
        assert difference(found, wanted) < 1.2 * difference(rounded, wanted)


def test_a_window_is_computed_whole_in_bfloat16_where_no_chunk_forgets_and_layers_are_plain() -> None:
    model, (x, _) = world(sink=1, window=2), given_clips(1, 7)
    assert not window.fits(model, x[:, :, :5], (1, 2, 2))
    with computing("bf16", CPU):
        assert window.fits(model, x[:, :, :5], (1, 2, 2))
        assert not window.fits(model, x, (1, 2, 2, 2)), "the last chunk sees the first frame, but not the second"
        assert not window.fits(strategies.train_adapter(model, Lora(rank=2, alpha=2, targets=("to_q",))), x, (7,))


def test_a_training_in_bfloat16_asks_for_the_window_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = world(sink=1, window=2), []
    latents, actions = given_clips(1, 5)
    monkeypatch.setattr(window, "velocity", lambda *arguments: asked.append(arguments[-3]))
    with computing("bf16", CPU):
        given, level = torch.zeros(1, 5, dtype=torch.bool), torch.ones(1, 5)
        model(latents, level, actions=actions, given=given, first_frame=latents[:, :, :1], chunks=(1, 2, 2))
    assert asked == [(1, 2, 2)]
