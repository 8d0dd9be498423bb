"""The game of an autoencoder against a discriminator: formulas, finite differences, and what each loss leaves where."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.latents import gan
from pipelines.latents.loss_params import Adversarial, Losses
from pipelines.latents.objectives import Autoencoding, check_losses
from pipelines.models.discriminator import PatchDiscriminator
from pipelines.models.perceptual import EncoderFeatures
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.params import ParamsError
from pipelines.training.objective import ask
from pipelines.training.objective_contract import check_objective
from tests.latents.toy import losses

GAME: dict[str, Any] = {
    "weight": 0.5,
    "warmup": None,
    "game": "hinge",
    "balance": None,
    "r1": None,
    "lecam": None,
    "instance_noise": None,
}


def game(**changes: Any) -> Adversarial:
    return Adversarial.model_validate(GAME | changes)


def objective(
    adversarial: Adversarial | None = None,
    terms: Losses | None = None,
    dimensions: int = 2,
    condition: int | None = None,
    features: bool = False,
) -> Autoencoding:
    torch.manual_seed(0)
    terms = terms or losses()
    coder = StackedAutoencoder(4, 8, 8, 4, 1, posterior=terms.kl is not None, spade=4)
    critic = PatchDiscriminator(dimensions, 4, 2, condition) if adversarial else None
    for parameter in (*coder.parameters(), *(critic.parameters() if critic else ())):
        parameter.data += 0.05 * torch.randn_like(parameter)  # what starts at zero has no gradient at first
    perceptual = EncoderFeatures(StackedAutoencoder(4, 8, 8, 4, 1)) if features else None
    return Autoencoding(coder, terms, adversarial, critic, perceptual)


def batch() -> dict[str, Tensor]:
    return {"video": torch.rand(3, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1}


# ---- formulas -----------------------------------------------------------------------------------------------------


def test_hinge_and_relativistic_losses_are_their_formulas() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.25])
    assert gan.discriminator_loss(real, fake, "hinge").tolist() == [0.0, 0.5 + 1.0, 2.0 + 1.25]
    assert gan.generator_loss(fake, None, "hinge").tolist() == [3.0, 0.0, -0.25]
    assert torch.allclose(gan.discriminator_loss(real, fake, "relativistic"), functional.softplus(fake - real))
    assert torch.allclose(gan.generator_loss(fake, real, "relativistic"), functional.softplus(real - fake))


def test_r1_of_a_critic_with_a_known_gradient() -> None:
    """D(x) = mean over 16 pooled places of sum_c x^2, so dD/dx = 2 x / (4 * 16)."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = gan.r1(lambda p: functional.avg_pool2d(p.square().sum(1, keepdim=True), 2).flatten(1).mean(1), x)
    assert torch.allclose(found, (2 * x / 64).square().flatten(1).sum(1), rtol=1e-5)


def test_r1_of_a_discriminator_agrees_with_finite_differences_in_its_weights() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(2, 4, 2, None).double().eval()
    x = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    # r1 computes in float32 for mixed precision; here the same formula in float64, and r1 itself beside it
    weight = critic.layers[0].parametrizations.weight.original  # type: ignore[union-attr]

    def penalty() -> Tensor:
        pixels = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(pixels).sum(), pixels, create_graph=True)
        return gradient.square().flatten(1).sum(1)

    loss = penalty().sum()
    assert torch.allclose(gan.r1(critic.float(), x.float()).sum().double(), loss.detach(), rtol=1e-4)
    critic.double()
    (analytic,) = torch.autograd.grad(penalty().sum(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(float(penalty().sum().detach()))
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    change = (values[0] - values[1]) / (2 * step)
    assert float((analytic * direction).sum()) == pytest.approx(change, rel=1e-3, abs=1e-9)


def test_the_balance_is_the_ratio_of_gradients_and_never_negative() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    made = layer(torch.randn(5, 4))
    reconstruction = made.square().mean()
    for adversarial in (-made.mean(), made.mean(), -7.0 * made.mean() - 100.0):
        found = gan.balance(reconstruction, adversarial, layer.weight, 1e4)
        norms = [
            torch.autograd.grad(x, layer.weight, retain_graph=True)[0].norm() for x in (reconstruction, adversarial)
        ]
        assert float(found) == pytest.approx(float(norms[0] / norms[1]), rel=1e-5) and float(found) > 0
    assert float(gan.balance(reconstruction, 1e-9 * made.mean(), layer.weight, 2.0)) == 2.0


def test_lecam_pulls_logits_to_the_other_sides_running_mean() -> None:
    lecam = gan.LeCam(decay=0.5)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0])
    lecam.remember(real, fake)
    assert lecam.state_dict() == {"real": 1.0, "fake": -1.0}
    assert lecam.penalty(real, fake).tolist() == [2.0**2 + 2.0**2, 4.0**2 + 4.0**2]
    other = gan.LeCam(0.5)
    other.load_state_dict(lecam.state_dict())
    assert torch.equal(other.penalty(real, fake), lecam.penalty(real, fake))


def test_instance_noise_dies_out() -> None:
    pixels = torch.zeros(1000, 3)
    torch.manual_seed(0)
    assert float(gan.instance_noise(pixels, 0.1, 0.9, 0).std()) == pytest.approx(0.1, rel=0.1)
    assert float(gan.instance_noise(pixels, 0.1, 0.9, 10).std()) == pytest.approx(0.1 * 0.9**10, rel=0.1)


# ---- the discriminator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("condition", [None, 5])
def test_a_logit_per_sample_from_clips_of_any_size(dimensions: int, condition: int | None) -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(dimensions, 4, 2, condition)
    told = torch.randn(2, 5) if condition else None
    video = torch.randn(2, 3, 4, 16, 24)
    logits = critic(video, told)
    assert logits.shape == (2,)
    if condition:
        assert not torch.allclose(logits, critic(video, -told))  # type: ignore[operator]
    with pytest.raises(ValueError, match="condition"):
        critic(video, None if condition else torch.randn(2, 5))


def test_in_two_dimensions_the_order_of_frames_does_not_matter_and_in_three_it_does() -> None:
    video = torch.randn(2, 3, 4, 16, 16)
    for dimensions in (2, 3):
        torch.manual_seed(0)
        critic = PatchDiscriminator(dimensions, 4, 2, None).eval()
        same = torch.allclose(critic(video), critic(video[:, :, [2, 0, 3, 1]]), atol=1e-6)
        assert same == (dimensions == 2)


def test_weights_have_spectral_norm_one() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(2, 8, 3, None)
    for _ in range(60):
        critic(torch.randn(1, 3, 1, 16, 16))
    for layer in critic.layers:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.02)


# ---- the objective ------------------------------------------------------------------------------------------------

VARIANTS: dict[str, Any] = {
    "hinge": partial(objective, game()),
    "relativistic in three dimensions": partial(objective, game(game="relativistic"), dimensions=3),
    "conditioned": partial(objective, game(), condition=4),
    "everything": partial(
        objective,
        game(
            balance={"most": 10.0},
            r1={"gamma": 5.0, "every": 1},
            lecam={"weight": 0.1, "decay": 0.9},
            instance_noise={"std": 0.1, "decay": 0.9},
        ),
        losses(
            frequency={"weight": 1.0, "warmup": None, "high": 0.5},
            kl={"weight": 0.01, "warmup": None, "reduce": "mean", "free_bits": 0.0},
            contrast={"weight": 0.1, "warmup": None},
            color={"weight": 0.1, "warmup": None},
            histogram={"weight": 0.1, "warmup": None, "bins": 16},
            perceptual={"weight": 0.1, "warmup": None, "features": {"kind": "own_encoder"}},
            temporal={"weight": 0.1, "warmup": None},
            channel_prefix={"share": 0.5, "least": 1},
            masked_latents={"share": 0.5, "ratio": 0.25},
        ),
        features=True,
    ),
    "adversarial only": partial(objective, game(), losses(reconstruction=None)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_game_holds_the_contract_of_objectives(name: str) -> None:
    check_objective(VARIANTS[name], batch())


def test_every_block_changes_the_loss() -> None:
    plain = {
        "weight": partial(objective, game(weight=0.7)),
        "game": partial(objective, game(game="relativistic")),
        "balance": partial(objective, game(balance={"most": 0.1})),
        "r1": partial(objective, game(r1={"gamma": 5.0, "every": 1})),
        "lecam": partial(objective, game(lecam={"weight": 0.1, "decay": 0.9})),
        "instance_noise": partial(objective, game(instance_noise={"std": 0.1, "decay": 0.9})),
    }
    terms = {
        "frequency": {"weight": 1.0, "warmup": None, "high": 0.5},
        "contrast": {"weight": 0.1, "warmup": None},
        "color": {"weight": 0.1, "warmup": None},
        "histogram": {"weight": 0.1, "warmup": None, "bins": 16},
        "temporal": {"weight": 0.1, "warmup": None},
        "channel_prefix": {"share": 1.0, "least": 1},
        "masked_latents": {"share": 1.0, "ratio": 0.5},
    }
    plain |= {name: partial(objective, game(), losses(**{name: block})) for name, block in terms.items()}
    check_objective(partial(objective, game()), batch(), knobs=plain)


def test_r1_is_scaled_by_the_steps_it_leaves_out() -> None:
    def critic_loss(step: int, every: int) -> Tensor:
        made = objective(game(r1={"gamma": 5.0, "every": every}))
        torch.manual_seed(0)
        return ask(made, batch(), step, "discriminator")["discriminator"].loss.detach()

    plain = critic_loss(1, 4)  # no R1 at step 1
    often, rarely = critic_loss(0, 1) - plain, critic_loss(0, 4) - plain
    assert torch.allclose(rarely, 4 * often, rtol=1e-3) and float(often.min()) > 0
    assert torch.equal(critic_loss(3, 4), plain)


def test_until_its_start_the_discriminator_trains_alone() -> None:
    made = objective(game(warmup={"shape": "linear", "start": 2, "steps": 2}))
    losses_at = {}
    for step in (0, 1, 3, 4, 9):
        output = ask(made, batch(), step, "autoencoder")["autoencoder"]
        losses_at[step] = output
        assert "discriminator" in ask(made, batch(), step, "discriminator")
    assert "adversarial" not in losses_at[1].metrics
    assert float(losses_at[3].metrics["weight/adversarial"]) == pytest.approx(0.25)
    assert float(losses_at[9].metrics["weight/adversarial"]) == pytest.approx(0.5)
    assert float(losses_at[9].monitors["loss_gen"]) == float(losses_at[9].metrics["adversarial"])


def test_the_weight_of_kl_per_latent_element_is_logged_for_both_ways_to_reduce() -> None:
    def logged(reduce: str) -> float:
        block = {"weight": 0.01, "warmup": None, "reduce": reduce, "free_bits": 0.0}
        output = ask(objective(None, losses(kl=block)), batch(), 0, "autoencoder")["autoencoder"]
        return float(output.metrics["weight/kl_per_element"])

    assert logged("sum") == pytest.approx(0.01)
    assert logged("mean") == pytest.approx(0.01 / (4 * 2 * 2))


def test_blocks_that_contradict_each_other_are_refused() -> None:
    nothing = losses(reconstruction=None)
    with pytest.raises(ParamsError, match="nothing compares the reconstruction with its clip"):
        check_losses("autoencoder", nothing, None, 4)
    with pytest.raises(ParamsError, match=r"no losses\.reconstruction to balance with"):
        check_losses("autoencoder", nothing, game(balance={"most": 1.0}), 4)
    with pytest.raises(ParamsError, match="9 of 4 latent channels"):
        check_losses("autoencoder", losses(channel_prefix={"share": 0.5, "least": 9}), None, 4)
    check_losses("autoencoder", nothing, game(), 4)
