"""The refiner: it begins with no correction, leaves what is given alone, and comes back from its files."""

from pathlib import Path

import pytest
import torch

from pipelines.models.refiner import Refiner, TemporalFilling, refined
from tests.generation.toy import CHANNELS, CLASSES, DIM, FRAMES, SIDE, denoiser


def refiner(gated: bool = False) -> Refiner:
    torch.manual_seed(0)
    return Refiner(denoiser(CLASSES, text_length=4), gated)


def inputs(count: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "prompt_embeds": torch.randn(count, 2, DIM),
        "prompt_mask": torch.ones(count, 2, dtype=torch.bool),
        "pseudo_class": torch.zeros(count, dtype=torch.long),
    }


def moved(network: Refiner) -> Refiner:
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("gated", [False, True])
def test_it_begins_with_the_interpolation_itself(gated: bool) -> None:
    network = refiner(gated)
    if gated:  # of a pretrained network whose last layer says something
        torch.nn.init.normal_(network.denoiser.transformer.proj_out.weight)
    x, told = torch.randn(2, CHANNELS, FRAMES, SIDE, SIDE), torch.rand(2, FRAMES)
    assert not network(x, told, **inputs()).any()
    network(x, told, **inputs()).sum().backward()
    learns = network.gate if gated else network.denoiser.transformer.proj_out.weight
    assert learns is not None and learns.grad is not None and learns.grad.abs().sum() > 0


def test_given_frames_come_out_as_they_went_in_and_hear_no_noise() -> None:
    network = moved(refiner())
    filled, noise = torch.randn(2, 2, CHANNELS, FRAMES, SIDE, SIDE)
    mask = torch.zeros(2, FRAMES, dtype=torch.bool)
    mask[:, [0, -1]] = True
    told = (~mask).float()
    made = refined(network, filled, told, mask, noise, inputs(), mask)
    assert torch.equal(made[:, :, [0, -1]], filled[:, :, [0, -1]])
    assert not torch.allclose(made[:, :, 1], filled[:, :, 1])
    louder = noise.clone()
    louder[:, :, [0, -1]] += 100.0
    assert torch.equal(refined(network, filled, told, mask, louder, inputs(), mask), made)
    free = refined(network, filled, told, mask, noise, inputs(), None)
    assert not torch.allclose(free[:, :, 0], filled[:, :, 0])


def test_it_hears_strength_level_class_and_prompt() -> None:
    network = moved(refiner())
    x, told, given = torch.randn(2, CHANNELS, FRAMES, SIDE, SIDE), torch.full((2, FRAMES), 0.5), inputs()
    plain = network(x, told, **given)
    torch.testing.assert_close(network(x, told, **given, alpha=torch.ones(2)), plain)
    changed = {
        "alpha": network(x, told, **given, alpha=torch.full((2,), 3.0)),
        "level": network(x, told * 2, **given),
        "class": network(x, told, **{**given, "pseudo_class": torch.ones(2, dtype=torch.long)}),
        "prompt": network(x, told, **{**given, "prompt_embeds": given["prompt_embeds"] + 1.0}),
    }
    for name, other in changed.items():
        assert not torch.allclose(other, plain), name
    with pytest.raises(ValueError, match=r"has 4 tokens, this refiner takes 2: .*refiner\.text_length"):
        network(x, told, torch.randn(2, 4, DIM), torch.ones(2, 4, dtype=torch.bool))


def test_a_learned_filling_begins_as_lines_learns_and_never_touches_what_is_given() -> None:
    torch.manual_seed(0)
    network = Refiner(denoiser(CLASSES, text_length=4), False, filling=3)
    lines, mask = torch.randn(2, CHANNELS, 5, SIDE, SIDE), torch.tensor([[True, False, False, False, True]] * 2)
    told, silent = (~mask).float(), torch.zeros(2, CHANNELS, 5, SIDE, SIDE)
    assert network.filling is not None
    assert torch.equal(refined(network, lines, told, mask, silent, inputs(), None), lines)
    target = lines.clone()
    target[:, :, 1:-1] = 0.5 * (lines[:, :, :-2] + lines[:, :, 2:])[:, :]
    optimizer = torch.optim.Adam(network.filling.parameters(), lr=0.05)
    for _ in range(150):
        error = (refined(network, lines, told, mask, silent, inputs(), None) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        assert network.filling.weight.grad is not None and network.filling.weight.grad.abs().sum() > 0
        optimizer.step()
    torch.testing.assert_close(
        network.filling.weight.detach(), torch.tensor([[0.5, 0.0, 0.5]] * CHANNELS), atol=0.02, rtol=0
    )
    bent = network.filling(lines, mask)
    assert not bent[:, :, [0, -1]].any() and bent[:, :, 1].abs().sum() > 0


def test_a_learned_filling_has_the_right_gradient() -> None:
    filling = TemporalFilling(2, 3).double()
    lines, mask = torch.randn(1, 2, 4, 2, 1, dtype=torch.float64), torch.tensor([[True, False, False, True]])

    def of(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(filling, {"weight": weight}, (lines, mask))

    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of, (weight,))


@pytest.mark.parametrize(("gated", "filling"), [(False, None), (True, None), (False, 3)])
def test_it_comes_back_from_its_files(tmp_path: Path, gated: bool, filling: int | None) -> None:
    network = moved(Refiner(denoiser(CLASSES, text_length=4), gated, filling))
    network.save_pretrained(tmp_path)
    again = Refiner.from_pretrained(tmp_path)
    if filling:
        assert network.filling is not None and again.filling is not None
        assert torch.equal(again.filling.weight, network.filling.weight)
    x, told = torch.randn(2, CHANNELS, FRAMES, SIDE, SIDE), torch.rand(2, FRAMES)
    alpha = torch.tensor([1.0, 2.5])
    torch.testing.assert_close(again(x, told, **inputs(), alpha=alpha), network(x, told, **inputs(), alpha=alpha))
