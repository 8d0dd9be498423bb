"""The straight path: inverses, derivative, and that its formula is written once."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import path

ROOT = Path(__file__).parents[2]


def pair(seed: int = 0, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, frames, 4, 4)
    return torch.randn(shape, generator=generator).double(), torch.randn(shape, generator=generator).double()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(0, 100), st.booleans())
def test_along_its_velocity_a_point_comes_to_latents_and_to_noise(level, seed, per_frame):
    latents, noise = pair(seed)
    sigma = torch.full((2, 3 if per_frame else 1), level, dtype=torch.float64)
    x, velocity, by = path.noised(latents, noise, sigma), path.velocity(latents, noise), path.over_frames(sigma)
    torch.testing.assert_close(x - by * velocity, latents)
    torch.testing.assert_close(x + (1.0 - by) * velocity, noise)


def test_velocity_is_the_derivative_of_the_point():
    latents, noise = pair()
    sigma = torch.rand(2, 1, dtype=torch.float64)
    _, slope = torch.autograd.functional.jvp(
        lambda s: path.noised(latents, noise, s), (sigma,), (torch.ones_like(sigma),)
    )
    torch.testing.assert_close(slope, path.velocity(latents, noise))


def test_ends_are_latents_and_noise():
    latents, noise = pair()
    zero = torch.zeros(2, 1, dtype=torch.float64)
    assert torch.equal(path.noised(latents, noise, zero), latents)
    assert torch.equal(path.noised(latents, noise, zero + 1), noise)


def test_a_frame_at_sigma_zero_stays_clean():
    latents, noise = pair()
    sigma = torch.tensor([[0.0, 0.5, 1.0]] * 2, dtype=torch.float64)
    assert torch.equal(path.noised(latents, noise, sigma)[:, :, 0], latents[:, :, 0])
    assert torch.equal(path.noised(latents, noise, sigma)[:, :, 2], noise[:, :, 2])


def test_weighted_mean_counts_only_what_has_weight():
    error = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(2, 1, 2, 1, 1)
    weight = torch.tensor([0.0, 2.0]).reshape(1, 1, 2, 1, 1)
    assert path.per_sample(error, weight).tolist() == [3.0, 7.0]
    assert path.per_sample(error).tolist() == [2.0, 6.0]
    assert path.per_sample(error, torch.zeros(1, 1, 2, 1, 1)).tolist() == [0.0, 0.0]


@pytest.mark.costly
def test_only_the_path_subtracts_latents_from_noise():
    def subtracts(source: Path) -> bool:
        nodes = (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.BinOp))
        return any(isinstance(node.op, ast.Sub) and ast.unparse(node) == "noise - latents" for node in nodes)

    found = [source.relative_to(ROOT).as_posix() for source in (ROOT / "pipelines").rglob("*.py") if subtracts(source)]
    assert found == ["pipelines/flow/path.py"]
