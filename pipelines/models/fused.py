"""What stands between the matrix products of a small transformer, in few passes over memory.

On a processor such a network spends more time on norms, rotations, casts and copies than on its products. So each of
these is one function with its gradient written out, which reads and writes everything once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MOST_SCORES = 2**24
"""Scores (queries times keys, of all heads and samples) up to which they are computed as a whole, 32 MiB of them."""
LINEAR, CUBIC = 2.0 * (2.0 / torch.pi) ** 0.5, 2.0 * (2.0 / torch.pi) ** 0.5 * 0.044715


class _Gelu(torch.autograd.Function):
    """x s(u) with u = 2 sqrt(2 / pi) (x + 0.044715 x^3), s the logistic function: what the tanh of half of it says.

    Its slope s + x s (1 - s) u' is computed with it, in the type of x, and kept in place of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        linear, wide = torch.tensor(LINEAR), x.float()
        square = torch.square(wide)
        share = torch.add(linear, square, alpha=CUBIC).mul_(wide).sigmoid_()
        value = wide * share
        made, slope = value.to(x.dtype, copy=True), None
        if ctx.needs_input_grad[0]:
            rise = torch.add(linear, square, alpha=3.0 * CUBIC)
            slope = torch.addcmul(share, value.addcmul_(value, share, value=-1.0), rise).to(x.dtype)
        ctx.save_for_backward(slope)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope


def gelu(x: Tensor) -> Tensor:
    """GELU with its tanh approximation, by the logistic function.

    PyTorch's takes several times as long on processors as the exact one (torch 2.13.0); on a GPU, and compiled, it is
    one pass, and serves.
    """
    if not _by_hand(x):
        return functional.gelu(x, approximate="tanh")
    return _Gelu.apply(x)  # type: ignore[return-value]


def _by_hand(x: Tensor) -> bool:
    """Whether functions of this module gain anything: on a processor, not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Heads(torch.autograd.Function):
    """Parts side by side [B, N, (P + R) D] to heads first: P of them RMS-normed and turned, R as they are.

    ``groups`` of a part are normed each by itself, by the same weight.

    With x^ = x / sqrt(mean(x^2) + eps), y = turn (w x^), the gradient is g_w = sum of turn* (g) x^ over rows, and
    g_x = (w g' - x^ mean(w g' x^)) / sqrt(mean(x^2) + eps) where g' = turn* (g).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, turn: Tensor | None, heads: int, groups: int
    ) -> tuple[Tensor, ...]:
        (normed, size), (batch, places, whole) = weight.shape, x.shape
        width = groups * size
        made = x.new_empty((whole // width, batch, heads, places, width // heads))
        wide = x[..., : normed * width].float().unflatten(-1, (normed, groups, size))
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        turned = _turned((wide * inverse).mul_(weight[:, None]).flatten(-2).unflatten(-1, (heads, -1)), turn)
        made[:normed].copy_(turned.permute(2, 0, 3, 1, 4))
        if normed * width < whole:
            rest = x[..., normed * width :].unflatten(-1, (-1, heads, width // heads))
            made[normed:].copy_(rest.permute(2, 0, 3, 1, 4))
        ctx.save_for_backward(x, inverse, weight, turn)
        ctx.heads, ctx.groups = heads, groups
        return made.flatten(1, 2).unbind(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, inverse, weight, turn = ctx.saved_tensors
        (normed, size), (batch, places, _), heads, groups = weight.shape, x.shape, ctx.heads, ctx.groups
        width = groups * size
        found = torch.empty_like(x)
        given = inverse.new_empty((batch, places, normed, heads, width // heads))
        apart = found.unflatten(-1, (-1, heads, width // heads))
        for number, gradient in enumerate(gradients):
            back = gradient.unflatten(0, (batch, heads)).transpose(1, 2)
            (given if number < normed else apart)[:, :, number].copy_(back)
        given = _turned(given, None if turn is None else turn.conj()).flatten(-2).unflatten(-1, (groups, size))
        unit = x[..., : normed * width].float().unflatten(-1, (normed, groups, size)) * inverse
        along = given * unit
        mean = torch.linalg.vecdot(along, weight[:, None]).div_(size).unsqueeze(-1)
        given.mul_(weight[:, None]).addcmul_(unit, mean, value=-1.0).mul_(inverse)
        found[..., : normed * width].copy_(given.flatten(-3))
        of_weight = along.flatten(0, 1).sum(0).sum(1)  # rows first: one sum over three axes takes four times as long
        return found, of_weight, None, None, None, None


def _turned(x: Tensor, turn: Tensor | None) -> Tensor:
    """Pairs of neighbouring elements of x [B, N, P, heads, dim] by complex numbers [N, 1, 1, dim / 2], in place."""
    if turn is not None:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turn)
    return x


def heads_first(
    x: Tensor, weight: Tensor, eps: float, turn: Tensor | None, heads: int, groups: int = 1
) -> tuple[Tensor, ...]:
    """Parts side by side [B, N, parts D] as [B heads, N, dim] each, in the type of x; computed in float32.

    Args:
        weight: [P, D / groups] of RMS norms of the first P parts; other parts stay as they are.
        eps: of the norms.
        turn: unit complex numbers [N, dim / 2] by which pairs of neighbouring elements of the normed parts are turned.
        groups: of a part that are normed each by itself: 1, or all heads.
    """
    return _Heads.apply(x, weight, eps, None if turn is None else turn[:, None, None], heads, groups)  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    """softmax(q k^T) v of [N, places, dim], with scores in the inputs' type and their softmax in float32.

    Gradients: of v p^T g; of scores p (g v^T - rows of g o), o what was said.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> Tensor:
        scores = torch.bmm(query, key.mT).float()
        shares = torch.softmax(scores if hidden is None else scores.add_(hidden), -1).to(query.dtype)
        said = torch.bmm(shares, value)
        ctx.save_for_backward(query, key, value, shares, said)
        return said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,), (query, key, value, shares, said) = gradients, ctx.saved_tensors
        mean = (gradient.float() * said).sum(-1, keepdim=True)
        scores = torch.bmm(gradient, value.mT).float().sub_(mean).mul_(shares).to(shares.dtype)
        of_key, of_value = torch.bmm(query.mT, scores).mT, torch.bmm(gradient.mT, shares).mT
        return torch.bmm(scores, key), of_key, of_value, None


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """Attention of heads [B heads, N, dim] over keys and values [B heads, M, dim], as [B, N, heads dim].

    Queries are scaled already; ``hidden`` [N, M], in float32, is added to scores: minus infinity where a key is unseen.
    In bfloat16 PyTorch's fused attention is slower on processors than plain products
    (torch 2.13.0, 80 keys, forward and backward: 2.0 times in float32, and 7 times in bfloat16 itself); it serves where
    scores would take too much memory, in other types, and in its own type on a GPU and compiled.
    """
    by_hand, few = _by_hand(query), len(query) * query.shape[1] * key.shape[1] <= MOST_SCORES
    if by_hand and query.dtype == torch.bfloat16 and few:
        made = _Attention.apply(query, key, value, hidden)
    else:
        asked, told, said = (part.float()[None] if by_hand else part[None] for part in (query, key, value))
        mask = None if hidden is None else hidden.to(asked.dtype)
        made = functional.scaled_dot_product_attention(asked, told, said, mask, scale=1.0)[0].to(query.dtype)
    return made.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)  # type: ignore[union-attr]


def asking(norm: Any, dim: int) -> Tensor:
    """The weight of the norm of queries, with the scale of the scores of heads of ``dim`` elements in it."""
    return norm.weight * dim**-0.5


def joined(*layers: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of linear layers of one input as those of one layer, their outputs side by side."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return torch.cat([layer.weight for layer in layers]), bias
