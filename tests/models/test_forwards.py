"""Batches encoded side by side: the same bits, in order, whatever a network remembers of a clip."""

from __future__ import annotations

import threading

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from pipelines.models.autoencoder import Autoencoder, PretrainedVideoAutoencoder
from pipelines.models.forwards import Forwards, twin

CPU = torch.device("cpu")


def wan() -> PretrainedVideoAutoencoder:
    """Wan's layout, whose encoder keeps the last frames of a clip in itself while it reads on."""
    torch.manual_seed(0)
    network = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True])
    return PretrainedVideoAutoencoder(network)


@torch.no_grad()
def encoded(network: Autoencoder, pixels: Tensor) -> Tensor:
    return network.encode(pixels)


@pytest.mark.usefixtures("four_threads")
def test_side_by_side_gives_the_order_and_the_bits_of_one_thread() -> None:
    network = wan()
    batches = [([number], torch.randn(1, 3, 9, 16, 16)) for number in range(12)]
    found = list(Forwards(encoded, network, CPU).of(batches))
    assert [rows for rows, _ in found] == [[number] for number in range(12)]
    assert torch.get_num_threads() == 4
    torch.set_num_threads(1)
    for (_, latents), (_, pixels) in zip(found, batches, strict=True):
        assert torch.equal(latents, encoded(network, pixels))


@pytest.mark.usefixtures("four_threads")
def test_as_many_batches_as_there_are_threads_are_in_their_forward_at_once() -> None:
    together = threading.Barrier(4, timeout=60)

    def meets(_network: Autoencoder, pixels: Tensor) -> Tensor:
        together.wait()
        return pixels

    batches = [([number], torch.zeros(1)) for number in range(8)]
    assert len(list(Forwards(meets, wan(), CPU).of(batches))) == 8


def test_a_twin_holds_the_same_weights_in_modules_of_its_own() -> None:
    network = wan()
    other = twin(network)
    assert {id(one) for one in network.modules()}.isdisjoint(id(one) for one in other.modules())
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert one is same


@pytest.mark.usefixtures("four_threads")
def test_an_error_of_one_batch_is_raised_and_the_threads_of_torch_are_given_back() -> None:
    def fails(_network: Autoencoder, pixels: Tensor) -> Tensor:
        raise ValueError("no latents")

    with pytest.raises(ValueError, match="no latents"):
        list(Forwards(fails, wan(), CPU).of([([0], torch.zeros(1))]))
    assert torch.get_num_threads() == 4
