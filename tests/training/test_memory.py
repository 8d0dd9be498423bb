"""Half precision, activations that are not kept, compiled networks, and what is said when memory does not suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines import stage
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.transformer_mae import TransformerMae
from pipelines.training import memory
from pipelines.training.precision import LEAST_SCALE, LossScale
from pipelines.training.state import load_trained_part, trained_part
from pipelines.training.tracking import read_rows
from tests.training.cutting import cut_equals_whole
from tests.training.toy import ADAMW, Regression, params, train_toy


class Overflowing(Regression):
    """At step 3 the gradient is beyond fp16, the loss is not."""

    def losses(self, batch: Any, step: int) -> Any:
        found = super().losses(batch, step)
        if step == 3:
            output = found["net"]
            found["net"] = type(output)(output.loss * 1e5, output.sigma, output.metrics)
        return found


def fp16(steps: int = 8, **changes: Any) -> Any:
    return params(steps=steps, precision="fp16", optimizer=ADAMW, log_every=1, **changes)


def test_an_overflow_of_fp16_skips_one_update_and_lowers_the_scale(tmp_path: Path) -> None:
    _, done = train_toy(tmp_path, fp16(), Overflowing)
    rows = [row for row in read_rows(done.work / "rows.jsonl") if "loss/net" in row]
    assert [row["precision/skipped_steps"] for row in rows] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert rows[2]["precision/loss_scale"] == 2 * rows[3]["precision/loss_scale"]
    assert "grad_norm/net" in rows[2] and "grad_norm/net" not in rows[3]
    assert done.step == 8 and done.loss_scale.skipped == 1


def test_an_fp16_run_cut_around_an_overflow_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    cut_equals_whole(tmp_path, fp16(), [3, 4], Overflowing)


def test_a_loss_that_is_not_finite_stops_fp16_too(tmp_path: Path) -> None:
    with pytest.raises(stage.StageError, match=r"loss of net is inf at step 6"):
        train_toy(tmp_path, fp16(), lambda noise: Regression(noise, broken_at=5))


def test_a_gradient_that_no_scale_makes_finite_is_not_blamed_on_the_scale() -> None:
    scale = LossScale("fp16", torch.device("cpu"))
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    skips = 0
    while scale.can_fall:
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)
        scale.scaled(torch.ones(()))  # what makes torch's scaler begin
        scale.unscale([optimizer])
        scale.adjust(skipped=True)
        skips += 1
    assert scale.scaler.get_scale() <= LEAST_SCALE and skips == scale.skipped < 40


NETWORKS = {
    "denoiser": (
        lambda: VideoDenoiser.build(
            channels=4, text_dim=8, heads=2, head_dim=12, layers=3, feed_forward=32, patch=(1, 2, 2), text_length=4
        ),
        lambda: (
            torch.randn(2, 4, 3, 4, 4),
            torch.rand(2, 1),
            torch.randn(2, 4, 8),
            torch.ones(2, 4, dtype=torch.bool),
        ),
    ),
    "autoencoder": (lambda: StackedAutoencoder(4, 4, 8, 4, 2), lambda: (torch.randn(2, 12, 32, 32),)),
    "latent_mae": (
        lambda: TransformerMae(4, (1, 2, 2), 12, 3, 2, 12, 1),
        lambda: (torch.randn(2, 4, 2, 4, 4), (torch.arange(8) % 2 == 0).view(1, 2, 2, 2).expand(2, -1, -1, -1)),
    ),
}


def stepped(name: str, again: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a network of that kind, and the bytes that its graph kept."""
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    network: nn.Module = make()
    for parameter in network.parameters():  # a denoiser starts at zero, and so would its gradients
        parameter.data += 0.05 * torch.randn_like(parameter)
    if again:
        memory.checkpoint_activations(network)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = network(*inputs())
        loss = (made if isinstance(made, torch.Tensor) else made[0]).square().mean()
    loss.backward()
    found = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    return found, sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_computed_again_give_the_same_gradients_from_less_memory(name: str) -> None:
    expected, kept = stepped(name, again=False)
    found, less = stepped(name, again=True)
    assert less < 0.9 * kept
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(gradient, found[key])


def test_a_network_without_blocks_says_so(tmp_path: Path) -> None:
    with pytest.raises(stage.StageError, match="Net has no blocks to compute again"):
        train_toy(tmp_path, params(gradient_checkpointing=True))


class TooLarge(Regression):
    """Asks for more than any machine has."""

    def losses(self, batch: Any, step: int) -> Any:
        torch.empty(2**60)
        return super().losses(batch, step)


def test_out_of_memory_says_which_knob_lowers_it_and_by_how_much(tmp_path: Path) -> None:
    with pytest.raises(stage.StageError) as caught:
        train_toy(tmp_path, params(steps=2), TooLarge)
    message = str(caught.value)
    assert "out of memory at a peak of" in message and "`reel fit out`" in message
    assert "micro_batch 4 -> 2 (same result, accumulated): about -" in message
    assert "gradient_checkpointing: true" in message and "precision: bf16: up to -" in message


def test_frozen_weights_are_not_part_of_the_state() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network[0].requires_grad_(False)
    state = trained_part(network)
    assert set(state) == {name for name in network.state_dict() if not name.startswith("0.")}
    state = {name: value + 1 for name, value in state.items()}
    frozen = network[0].weight.clone()
    load_trained_part(network, state)
    assert torch.equal(network[0].weight, frozen) and torch.equal(network[1].weight, torch.full((3,), 2.0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_trains_to_the_same_weights_and_is_itself_again(tmp_path: Path) -> None:
    eager, _ = train_toy(tmp_path / "eager", params(steps=3, optimizer=ADAMW))
    compiled, _ = train_toy(tmp_path / "compiled", params(steps=3, optimizer=ADAMW, compile=True))
    assert type(compiled.net) is type(eager.net)
    for name, value in eager.net.state_dict().items():
        torch.testing.assert_close(compiled.net.state_dict()[name], value, rtol=1e-4, atol=1e-5)
