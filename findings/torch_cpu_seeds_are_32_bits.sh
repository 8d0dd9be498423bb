#!/usr/bin/env bash
# torch 2.13.0: the random generator of a processor looks at the lower 32 bits of a seed only, in silence.
#
# manual_seed takes any 64-bit number and initial_seed() gives it back whole, but two seeds that differ by a multiple of
# 2**32 draw the same numbers (the Mersenne Twister is seeded from 32 bits; Philox on a GPU uses all 64). Whoever derives
# a second stream by adding a large offset to a sample's seed, or packs (seed, step) into the upper bits, gets the first
# stream again on a processor and another one on a GPU.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" -W ignore - <<'PY'
import torch

print("torch", torch.__version__)


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return generator.initial_seed(), torch.randn(4, generator=generator)


small, large, other = drawn(7), drawn(7 + 2**32), drawn(8)
print("initial_seed:", small[0], large[0])
print("equal numbers from 7 and 7 + 2**32:", torch.equal(small[1], large[1]))
assert small[0] != large[0] and torch.equal(small[1], large[1]) and not torch.equal(small[1], other[1])
print("as stated")
PY
