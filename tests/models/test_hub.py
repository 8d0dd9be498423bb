"""Names of the model hub without a network: which commit, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.hub import commit
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.pretrained_denoiser import Origin
from pipelines.stage import StageError
from tests.models.hub_cache import COMMIT, offline, put
from tests.models.tiny_pretrained import save, wan, wan_vae


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline cache that holds ``lab/video``: a transformer and an autoencoder."""
    model = save(tmp_path / "model", wan())
    wan_vae().save_pretrained(model / "vae")
    put(tmp_path / "hub", "lab/video", model)
    offline(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


def test_a_name_in_the_cache_is_loaded_and_known_by_its_commit(cache: Path, tmp_path: Path) -> None:
    by_name = PretrainedVideoAutoencoder.from_pretrained("lab/video", None, "vae")
    by_folder = PretrainedVideoAutoencoder.from_pretrained(tmp_path / "model/vae")
    video = torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(by_name.encode(video), by_folder.encode(video))
    assert Origin("lab/video", COMMIT, "transformer", "fp32").load().config["in_channels"] == 4
    assert commit("lab/video", None, "vae") == commit("lab/video", COMMIT, "transformer") == COMMIT
    assert commit(str(tmp_path / "model"), None, "vae") is None


@pytest.mark.parametrize(("name", "revision"), [("lab/missing", None), ("lab/video", "f" * 40), ("lab/video", "v2")])
def test_what_the_cache_lacks_is_said_in_two_lines(cache: Path, name: str, revision: str | None) -> None:
    with pytest.raises(StageError) as caught:
        PretrainedVideoAutoencoder.from_pretrained(name, revision, "vae")
    first, second = str(caught.value).splitlines()
    wanted = f"{name}/vae" + (f"@{revision}" if revision else "")
    assert first.endswith(f"HF_HUB_OFFLINE is set, and the cache {cache} does not hold {wanted}.")
    assert second.startswith("Give an existing folder, or a hub name")
    with pytest.raises(StageError, match=rf"pretrained denoiser '{name}' cannot be loaded: HF_HUB_OFFLINE is set"):
        Origin(name, revision, "transformer", "fp32").layout()


def test_another_fault_of_what_the_cache_holds_is_not_called_missing(cache: Path) -> None:
    (cache / "models--lab--video/snapshots" / COMMIT / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(StageError, match=r"cannot be loaded: (?!HF_HUB_OFFLINE)"):
        PretrainedVideoAutoencoder.from_pretrained("lab/video", None, "vae")
