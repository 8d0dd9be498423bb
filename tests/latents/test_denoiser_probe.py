"""The denoiser probe: the same every time, and worst for latents whose structure was destroyed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.latents.denoiser_probe import WHITE, Budget, ProbedAutoencoder, main, probe, report
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from tests.latents.toy import write_clips

SHORT = Budget(steps=60, batch_size=16)


def smooth(count: int, seed: int) -> Tensor:
    """Latents [N, 2, 1, 8, 8] whose neighbours are alike."""
    coarse = torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (8, 8), mode="bilinear")[:, :, None]


def spoilt(latents: Tensor, seed: int) -> Tensor:
    """The same numbers in places drawn for each sample: what they show can still be told, by a longer code."""
    order = torch.rand(len(latents), 64, generator=torch.Generator().manual_seed(seed)).argsort(1)
    flat = latents.flatten(2)
    return flat.gather(2, order[:, None].expand_as(flat)).view_as(latents)


def test_spoilt_latents_are_ranked_last_and_the_numbers_come_again() -> None:
    train, held_out = smooth(128, 0), smooth(32, 1)
    good = probe(train, held_out, SHORT)
    noisy = probe(train + 0.5 * torch.randn_like(train), held_out + 0.5 * torch.randn_like(held_out), SHORT)
    bad = probe(spoilt(train, 2), spoilt(held_out, 3), SHORT)
    assert good < noisy < bad
    assert good < 0.8 * WHITE
    assert probe(train, held_out, SHORT) == good
    assert probe(3 * train + 1, 3 * held_out + 1, SHORT) == pytest.approx(good, rel=1e-3)  # scale says nothing


def test_better_pixels_and_worse_latents_are_called_so() -> None:
    found = [
        ProbedAutoencoder("a", (4, 2, 2, 2), 30.0, 1.0),
        ProbedAutoencoder("b", (4, 2, 2, 2), 31.0, 1.2),
        ProbedAutoencoder("c", (8, 2, 2, 2), 29.0, 1.3),
    ]
    lines = report(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b", "c"]
    assert "b reconstructs better than a (31.00 against 30.00 dB) and denoises worse." in lines
    assert lines[-1].startswith("The latents have different shapes")


def test_the_command_measures_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = write_clips(tmp_path / "clips")
    for name in ("one", "two"):
        StackedAutoencoder(4, 8, 8, 4, 1).save_pretrained(tmp_path / name)
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--clips", str(clips), "--steps", "2"]) == 0
    assert "4x2x2x2" in capsys.readouterr().out
    assert main([str(tmp_path / "none"), "--clips", str(clips)]) == 1
    assert "holds no autoencoder" in capsys.readouterr().err
