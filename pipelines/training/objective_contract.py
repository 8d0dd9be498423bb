"""What every objective has to hold, checked by a program: ``check_objective`` names every breach in one error.

For tests of the objectives here and of your own: see ``tests/training/test_objective_contract.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.objective import Batch, LossOutput, Objective, ask

COMPANIONS = {"prompt_embeds": ("prompt_mask",)}
"""Fields that the collation adds to a declared one."""
SEED, OTHER_SEED = 5, 6

Make = Callable[[], Objective]


class BreachError(AssertionError):
    """An objective does not hold the contract; all breaches, a line each."""


class _Watched(dict):
    """A batch that remembers which fields were asked for."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


@contextlib.contextmanager
def _only(objective: Objective, name: str) -> Iterator[None]:
    """As in the loop: gradients of the other trained networks are off."""
    others = [getattr(objective, other) for other in objective.trained if other != name]
    frozen = [p for network in others for p in network.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _ask(objective: Objective, batch: Batch, step: int, name: str, seed: int = SEED) -> dict[str, LossOutput]:
    torch.manual_seed(seed)
    with _only(objective, name):
        return ask(objective, batch, step, name)


def _run(objective: Objective, batch: Batch, step: int, seed: int = SEED) -> dict[str, LossOutput]:
    """What is answered for every trained network, asked in their order."""
    outputs: dict[str, LossOutput] = {}
    for name in objective.trained:
        outputs |= _ask(objective, batch, step, name, seed)
    return outputs


def _values(outputs: Mapping[str, LossOutput]) -> Tensor:
    return torch.cat([output.loss.detach().flatten() for output in outputs.values()])


def _networks(objective: Objective) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(objective).items() if isinstance(value, nn.Module)}


def _shape(name: str, output: LossOutput, size: int) -> list[str]:
    found = []
    if tuple(output.loss.shape) != (size,):
        return [f"{name}: the loss has shape {list(output.loss.shape)}, not one value per sample [{size}]"]
    if not bool(torch.isfinite(output.loss).all()):
        found.append(f"{name}: a loss is not finite")
    if not output.loss.requires_grad:
        found.append(f"{name}: the loss has no gradient")
    sigma = output.sigma
    if sigma is not None and (
        sigma.ndim not in (1, 2) or len(sigma) != size or not bool(((sigma >= 0) & (sigma <= 1)).all())
    ):
        found.append(f"{name}: sigma must be [{size}] or [{size}, T] in [0, 1]")
    for logged, value in {**output.metrics, **output.monitors}.items():
        if value.ndim or value.requires_grad:
            found.append(f"{name}: logged number {logged} must be a scalar without gradient")
    return found


def _gradients(objective: Objective, batch: Batch, step: int) -> list[str]:
    """Each loss alone: its own network gets gradients, from every sample, and no other network does."""
    found = []
    networks = _networks(objective)
    for name in _run(objective, batch, step):
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        loss = _ask(objective, batch, step, name)[name].loss
        own = [p for p in networks[name].parameters() if p.requires_grad]
        for sample in range(len(loss)):
            parts = torch.autograd.grad(loss[sample], own, retain_graph=True, allow_unused=True)
            if not any(part is not None and bool(part.any()) for part in parts):
                found.append(f"{name}: the loss of sample {sample} has no gradient in its network")
        loss.mean().backward()
        reached = {
            other for other, network in networks.items() if any(p.grad is not None for p in network.parameters())
        }
        found += [f"{name}: its loss leaves gradients in {other}" for other in sorted(reached - {name})]
        dead = [key for key, p in networks[name].named_parameters() if p.requires_grad and p.grad is None]
        if dead:
            found.append(f"{name}: no gradient ever reaches {', '.join(dead[:4])}; freeze or remove what is idle")
    for network in networks.values():
        network.zero_grad(set_to_none=True)
    return found


def _changed(value: Tensor) -> Tensor:
    """Another value of the same kind: real numbers move, whole numbers go to the next sample."""
    if value.is_floating_point():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        return (value + 0.5 * noise.to(value)).clamp(value.min() - 1, value.max() + 1)
    return value.roll(1, 0)


def _purity(make: Make, batch: Batch, step: int) -> list[str]:
    """The same seed gives the same loss, whatever was asked before; another seed draws anew where anything is drawn."""
    objective, found = make(), []
    modes = {name: network.training for name, network in _networks(objective).items()}
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    first = _values(_run(objective, batch, step))
    _run(objective, batch, step + 3, OTHER_SEED)
    if not hasattr(objective, "state_dict") and not torch.equal(first, _values(_run(objective, batch, step))):
        found.append("the loss is no function of (weights, batch, step, seed): asked again it differs")
    if any(not torch.equal(value, batch[name]) for name, value in before.items()):
        found.append("the batch is changed in place")
    if any(network.training != modes[name] for name, network in _networks(objective).items()):
        found.append("a network was left in another mode (train or eval)")
    return found


def _fields(make: Make, batch: Batch, step: int) -> list[str]:
    """Reads what it declares and nothing else, and everything declared changes the loss."""
    objective, watched = make(), _Watched(batch)
    base = _values(_run(objective, watched, step))
    allowed = {*objective.reads, *(name for read in objective.reads for name in COMPANIONS.get(read, ()))}
    found = [f"reads {name}, which `reads` does not declare" for name in sorted(watched.asked - allowed)]
    found += [f"declares {name} and never reads it" for name in objective.reads if name not in watched.asked]
    for name in objective.reads:
        if isinstance(batch.get(name), Tensor) and name in watched.asked:
            other = _values(_run(make(), {**batch, name: _changed(batch[name])}, step))
            if torch.equal(base, other):
                found.append(f"another {name} gives the same loss")
    return found


def _without(make: Make, batch: Batch, step: int, terms: Mapping[str, Make]) -> list[str]:
    """Every term reaches the weights: the objective without it has another gradient."""

    def gradient(build: Make) -> Tensor:
        objective = build()
        for name in objective.trained:
            for output in _ask(objective, batch, step, name).values():
                output.loss.sum().backward()
        found = [
            p.grad.flatten() for net in _networks(objective).values() for p in net.parameters() if p.grad is not None
        ]
        return torch.cat(found)

    whole = gradient(make)
    return [f"term {name} has no gradient" for name, without in terms.items() if torch.equal(whole, gradient(without))]


def check_objective(
    make: Make,
    batch: Batch,
    *,
    step: int = 0,
    terms: Mapping[str, Make] | None = None,
    knobs: Mapping[str, Make] | None = None,
) -> None:
    """Hold an objective to the contract of :class:`~pipelines.training.objective.Objective`.

    Checked: asked for a network, an answer for it and no other; one finite value per sample, with a gradient from every
    sample into the network it is for and into no other; the same loss at the same seed whatever came before; fields
    read are fields declared, each of which changes the loss; the batch and the networks' modes are left as they were.

    Args:
        make: builds the objective anew, with the same weights every time.
        batch: a batch as the reader collates it.
        step: the optimizer step at which the losses are asked for.
        terms: per loss term, how to build the objective without it: the gradient must differ.
        knobs: per parameter, how to build the objective with another value: the loss must differ.

    Raises:
        BreachError: every breach, a line each.
    """
    objective = make()
    try:
        outputs = _run(objective, batch, step)
    except TypeError as error:
        raise BreachError(f"{type(objective).__name__}:\n- {error}") from error
    size = len(next(value for value in batch.values() if isinstance(value, Tensor)))
    if not outputs:
        raise BreachError(f"{type(objective).__name__}:\n- no loss for any of {list(objective.trained)}")
    breaches = [line for name, output in outputs.items() for line in _shape(name, output, size)]
    if not breaches:
        breaches += [*_gradients(objective, batch, step), *_purity(make, batch, step), *_fields(make, batch, step)]
        breaches += _without(make, batch, step, terms or {})
        base = _values(outputs)
        for name, other in (knobs or {}).items():
            if torch.equal(base, _values(_run(other(), batch, step))):
                breaches.append(f"knob {name} changes nothing")
    if breaches:
        raise BreachError(f"{type(objective).__name__}:\n" + "\n".join(f"- {line}" for line in breaches))
