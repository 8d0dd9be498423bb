"""The nearest of many centres from products in bfloat16, looked at again in float32 where they cannot tell.

A processor with instructions for bfloat16 multiplies several times as fast in it. What rounding can make of a score
decides who may be nearest; between those, squared distances in float32 decide.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.representation.passes import ENTRIES, smallest, two_smallest
from pipelines.training.precision import computes_bf16

LEAST = 2**16
"""Numbers in the centres from which it is worth it."""
UNIT = 2.0**-9
"""Most relative error of a number rounded to bfloat16."""
SPREAD = 6 * 0.58
"""Six standard deviations of the rounding of both factors of a product, in units: errors of elements add up at random,
each at most ``UNIT`` and 0.41 of it on average (root mean square), 0.58 for two."""


def fits(values: Tensor, centres: Tensor) -> bool:
    """Whether :func:`screened` looks here: at many centres, on a processor that computes in bfloat16."""
    return (
        len(centres) > 1 and centres.numel() >= LEAST and values.device.type == "cpu" and computes_bf16(values.device)
    )


def screened(values: Tensor, centres: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of values [b, D] with squared ``lengths`` [b], part by part: class, squared distance to it, and a squared
    distance that no other centre is nearer than, each less |x|^2.

    A product that is rounded is wrong by at most ``UNIT`` of itself, and by the rounding of its factors, six standard
    deviations of which are at most SPREAD UNIT |x| max |c|; a score is twice as wrong.
    """
    norms, held, widest = centres.square().sum(1), centres.bfloat16().T, float(centres.abs().max())
    least, most = float(norms.min()), float(norms.max())
    size = max(1, ENTRIES // len(centres))

    def wrong(scores: Tensor, squares: Tensor) -> Tensor:
        product = 0.5 * torch.maximum((most - scores).abs(), (scores - least).abs())
        return 2.0 * UNIT * (1.02 * product + SPREAD * widest * squares.sqrt())

    for part, squares in zip(values.split(size), lengths.split(size), strict=True):
        found = torch.sub(norms, (part.bfloat16() @ held).float(), alpha=2.0)
        best = smallest(found)[1]
        rows, near = torch.nonzero(found <= (best + 2.0 * wrong(best, squares))[:, None], as_tuple=True)
        found[rows, near] = (part[rows] - centres[near]).square().sum(1) - squares[rows]
        labels, first, second = two_smallest(found)
        yield labels, first, second - wrong(second, squares)
