"""The drifting loss at seed C's setting: against a loop over classes, features and temperatures, and against autograd.

8 classes of 4 generated samples, 64 positives and 32 unconditional negatives, the 125 features of seed C's launcher,
three temperatures; then 64 classes of 16 samples with 64 positives, on a quarter of the features. One thread. All three
give the same loss and gradients to 1e-5.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.paired import Figure, cpu_seconds, ratios
from pipelines.flow.drift import Problems, drift_pull
from pipelines.flow.drift_kernel import LEAST_COLUMN
from pipelines.flow.params import DriftField

TAUS = (0.02, 0.05, 0.2)
FIELD = DriftField(
    temperatures=TAUS, normalisation="both", weights="inside", scale="location", floor=0.0, correction=None
)
FEATURES = {64: 66, 128: 42, 256: 12, 512: 4, 3: 1}
"""How many features have each width: those of a ResNet-18 on pictures of 64 x 64 with at most 16 places.

Its maps are 64 x 16 x 16, 128 x 8 x 8, 256 x 4 x 4 and 512 x 2 x 2. Each gives its mean and deviation, and means and
deviations of windows of 2 x 2 and 4 x 4, where it has some, at up to 16 places: 2 + 32 + 32, 2 + 32 + 8, 2 + 8 + 2 and
2 + 2; with the mean square of the input that is the 125 of the document.
"""
PEERS = {
    "documents_loop": "target at least 40",
    "reference": "the same without its diagnostics",
    "class_batched": "target at least 4",
}


@dataclass(frozen=True)
class Setting:
    """Numbers of classes and of samples of each kind per class, and what share of the features is taken."""

    classes: int
    generated: int
    positives: int
    negatives: int
    share: float = 1.0

    def groups(self, with_gradient: bool = True) -> list[Problems]:
        """Features of equal width together, [L, P, N, D]."""
        draw = torch.Generator().manual_seed(0)
        sizes = [(max(1, round(self.share * count)), width) for width, count in FEATURES.items()]

        def features(places: int, number: int, width: int) -> Tensor:
            return torch.randn(places, self.classes, number, width, generator=draw)

        return [
            Problems(
                features(places, self.generated, width).requires_grad_(with_gradient),
                features(places, self.positives, width),
                features(places, self.negatives, width),
            )
            for places, width in sizes
        ]


DOCUMENT = Setting(8, 4, 64, 32)
LARGE = Setting(64, 16, 64, 16, share=0.25)


def ours(groups: Sequence[Problems]) -> Tensor:
    """Sum over features of the mean over classes, with gradients."""
    loss = torch.stack([drift_pull(group, FIELD).loss.mean(1).sum() for group in groups]).sum()
    loss.backward()
    return loss.detach()


Numbers = dict[str, float]


def _kernel(towards: Tensor, away: Tensor, tau: float) -> Tensor:
    """Square roots of row times column softmax over [negatives | positives], no sample with itself."""
    logits = torch.cat([-away / tau, -towards / tau], -1)
    own, group = torch.zeros_like(logits, dtype=torch.bool), logits.shape[-2]
    own[..., range(group), range(group)] = True
    logits = logits.masked_fill(own, -torch.inf)
    columns = torch.softmax(logits, -2).clamp(min=LEAST_COLUMN)
    return (torch.softmax(logits, -1) * columns).sqrt().masked_fill(own, 0.0)


def _told(towards: Tensor, away: Tensor, kernel: Tensor, v: Tensor, tau: float) -> Numbers:
    """What the document's loop reads of every class, feature and temperature as it goes."""
    count = away.shape[-1]
    share = torch.softmax(torch.cat([-away / tau, -towards / tau], -1), -1)
    entropy = -(share.clamp(min=1e-12) * share.clamp(min=1e-12).log())
    return {
        "dist_pos_mean": towards.mean().item(),
        "dist_neg_mean": away.mean().item(),
        "a_pos_mass_mean": kernel[..., count:].sum(-1).mean().item(),
        "a_neg_mass_mean": kernel[..., :count].sum(-1).mean().item(),
        "eff_neighbors_pos": entropy[..., count:].sum(-1).exp().mean().item(),
        "eff_neighbors_neg": entropy[..., :count].sum(-1).exp().mean().item(),
        "drift_norm_mean": v.norm(dim=-1).mean().item(),
    }


def _traced(x: Tensor, negatives: Tensor, positives: Tensor, again: bool, told: list[Numbers] | None = None) -> Tensor:
    """Mean squared distance from x / s to where its field leads, over the last two axes, as the definition has it.

    Features over s, then a field per temperature, cut off from the gradient where the goal is set; ``negatives`` begin
    with x. ``again``: each temperature measures its distances for itself. ``told`` takes the numbers of each.
    """
    root = x.shape[-1] ** 0.5
    scale = (torch.cdist(x, torch.cat([negatives, positives], -2)).mean((-1, -2), keepdim=True) / root).detach()
    near, less, more = x / scale, negatives / scale, positives / scale
    away, towards = torch.cdist(near, less), torch.cdist(near, more)
    total, count = torch.zeros_like(near), negatives.shape[-2]
    for number, tau in enumerate(TAUS):
        if again and number:
            away, towards = torch.cdist(near, less), torch.cdist(near, more)
        kernel = _kernel(towards / root, away / root, tau)
        repelled, drawn = kernel[..., :count], kernel[..., count:]
        v = (drawn * repelled.sum(-1, keepdim=True)) @ more - (repelled * drawn.sum(-1, keepdim=True)) @ less
        if told is not None:
            told.append(_told(towards / root, away / root, kernel, v, tau))
        total = total + v / v.square().mean((-1, -2), keepdim=True).sqrt().clamp(min=1e-12).detach()
    return (near - (near + total).detach()).square().mean((-1, -2))


def _looped(groups: Sequence[Problems], told: list[Numbers] | None) -> Tensor:
    losses = []
    for group in groups:
        for place, classes in enumerate(group.generated):
            each = []
            for number, x in enumerate(classes):
                negatives = torch.cat([x, group.negatives[place, number]])
                each.append(_traced(x, negatives, group.positives[place, number], True, told))
            losses.append(torch.stack(each).mean())
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.detach()


def reference(groups: Sequence[Problems]) -> Tensor:
    """One class, one feature and one temperature after another."""
    return _looped(groups, None)


def documents_loop(groups: Sequence[Problems]) -> Tensor:
    """The same with the numbers that the document's loop takes of each: what its 8.8 was probably measured against."""
    return _looped(groups, [])


def class_batched(groups: Sequence[Problems]) -> Tensor:
    """One feature after another, its classes in one batch, one distance for all temperatures; autograd."""
    losses = []
    for group in groups:
        for place, x in enumerate(group.generated):
            negatives = torch.cat([x, group.negatives[place]], 1)
            losses.append(_traced(x, negatives, group.positives[place], False).mean())
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.detach()


def check_equal(one: Callable[..., Tensor], other: Callable[..., Tensor], setting: Setting) -> float:
    """Largest relative difference of loss and gradients.

    Raises:
        AssertionError: it is above 1e-5.
    """
    first, second = setting.groups(), setting.groups()
    a, b = one(first), other(second)
    worst = float((a - b).abs() / b)
    for x, y in zip(first, second, strict=True):
        assert x.generated.grad is not None and y.generated.grad is not None
        worst = max(worst, float((x.generated.grad - y.generated.grad).norm() / y.generated.grad.norm()))
    assert worst < 1e-5, worst
    return worst


def bounds(setting: Setting) -> str:
    """What the loss stage costs beside its matrix products and its memory traffic alone, and beside both one by one.

    The last is what it is made of: norms, products and sums of the same shapes by themselves, on data that lie ready.
    """
    groups = setting.groups(False)
    products = moved = 0
    alone = 0.0
    for group in groups:
        places, count, generated, width = group.generated.shape
        others = generated + group.negatives.shape[2] + group.positives.shape[2]
        products += 2 * places * count * generated * others * width * (1 + len(TAUS))
        moved += 4 * places * count * others * width
        y = torch.cat([group.generated, group.negatives, group.positives], 2).flatten(0, 1)
        coefs, x = torch.randn(len(y), len(TAUS) * generated, others), y[:, :generated].contiguous()
        alone += best(lambda: (torch.linalg.vector_norm(y, dim=-1), torch.bmm(x, y.mT), torch.bmm(coefs, y)))  # noqa: B023
    one, big = torch.randn(512, 512), torch.randn(2**24)
    rate = 2 * 512**3 / best(lambda: one @ one)
    bandwidth = 4 * 2**24 / best(big.sum)
    made = setting.groups()
    took = statistics.median(cpu_seconds(lambda: ours(made)) for _ in range(7))
    return (
        f"{took * 1e3:.1f} ms; its {products / moved:.1f} operations per byte would take {products / rate * 1e3:.1f} "
        f"ms at {rate / 1e9:.0f} GFLOP/s, reading the features once {moved / bandwidth * 1e3:.1f} ms at "
        f"{bandwidth / 1e9:.0f} GB/s; norms and batched products of these shapes by themselves {alone * 1e3:.1f} ms"
    )


def best(action: Callable[[], object], rounds: int = 7) -> float:
    """The least processor seconds of a few calls, after one to warm up."""
    action()
    return min(cpu_seconds(action) for _ in range(rounds))


def memory() -> float:
    """GiB of a process that computes 64 problems of 64 generated samples and 64 positives, all 125 features."""
    code = (
        "import resource, torch; from benchmarks import drifting as d; torch.set_num_threads(1);"
        "d.ours(d.Setting(64, 64, 64, 32).groups());"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure() -> list[Figure]:
    """Both peers at both settings, memory at the largest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    try:
        for name, setting, rounds in (("8 x 4", DOCUMENT, 5), ("64 x 16", LARGE, 3)):
            for peer in (documents_loop, reference, class_batched):
                worst = check_equal(ours, peer, setting)
                mine, theirs = setting.groups(), setting.groups()
                found = ratios(lambda: peer(theirs), lambda: ours(mine), rounds)  # noqa: B023
                figures.append(
                    Figure(
                        f"drifting loss {name}, {peer.__name__} over ours (equal to {worst:.0e})",
                        peer.__name__, "pipelines.flow.drift", "x its time", found, PEERS[peer.__name__],
                    )
                )  # fmt: skip
            print(f"  drifting loss {name}: {bounds(setting)}", flush=True)
    finally:
        torch.set_num_threads(threads)
    figures.append(
        Figure("drifting loss 64 x 64, 64 positives", "peak memory", "4 GiB", "of it", (memory() / 4,), "target 1")
    )
    return figures
