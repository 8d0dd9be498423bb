"""A given first frame: clean and unmoved under every sampler, and the rest still lands on the data."""

import pytest
import torch

from pipelines.flow import first_frame, path, sigmas
from pipelines.flow.params import Sampling
from pipelines.flow.samplers import SAMPLERS
from pipelines.flow.sampling import Phase, walk


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_given_frame_stays_and_the_true_field_completes_the_clip(name):
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 4, 4, 4)
    seen = []

    def field(x, sigma):
        seen.append((x[:, :, :1].clone(), sigma))
        return path.velocity(latents, noise)

    first = latents[:, :, :1]
    start = first_frame.placed(noise, first)
    made = SAMPLERS[name](first_frame.kept(field, first), start, sigmas.table(5, 2.0))
    torch.testing.assert_close(made, latents, atol=1e-4, rtol=1e-4)
    for x, sigma in seen:
        assert torch.equal(x, first) and sigma.shape == (2, 4)
        assert not sigma[:, 0].any() and (sigma[:, 1:] == sigma[:, 1:2]).all()


def test_levels_and_weights_are_those_of_the_samples_that_are_given_a_frame():
    given = torch.tensor([True, False])
    assert first_frame.levels(torch.tensor([[0.5], [0.8]]), 3, given).tolist() == [
        [0.0, 0.5, 0.5],
        pytest.approx([0.8, 0.8, 0.8]),
    ]
    assert first_frame.counted(3, given)[:, 0, :, 0, 0].tolist() == [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_a_flow_that_was_not_trained_for_it_takes_no_frame():
    phase = Phase(lambda x, sigma, **_: x, Sampling(sampler="euler", steps=1, shift=1.0, guidance=None))
    with pytest.raises(ValueError, match="not trained to start from a given first frame"):
        walk([phase], torch.zeros(1, 2, 3, 4, 4), {}, None, torch.zeros(1, 2, 1, 4, 4))
