"""A folder of latents says what it holds; a reader says what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data.contract import MANIFEST, ContractError, Manifest, require_autoencoder
from pipelines.stage import digest
from tests.data.sample_shards import write_latents


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest.read(write_latents(tmp_path / "latents"))
    assert manifest.fields["prompt_embeds"].shape == (None, 3)
    assert manifest.splits == {"train": 9, "validation": 3}
    assert Manifest.model_validate_json(manifest.model_dump_json()).model_dump() == manifest.model_dump()


def test_a_missing_field_is_named_with_its_reader(tmp_path: Path) -> None:
    manifest = Manifest.read(write_latents(tmp_path / "latents"))
    manifest.require(["latents", "actions"], by="world_model")
    with pytest.raises(ContractError, match=r"latents/manifest\.json: no field depth, which world_model reads"):
        manifest.require(["latents", "depth"], by="world_model")


def test_a_folder_without_a_manifest_says_which_stage_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no such file, so .* holds no latents; run the stage latent_shards"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("change", [{"version": 2}, {"num_samples": "many"}, {"surprise": 1}])
def test_another_version_or_shape_of_manifest_is_refused(tmp_path: Path, change: dict) -> None:
    path = write_latents(tmp_path / "latents") / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ContractError, match=rf"manifest\.json: {next(iter(change))}: .*run the stage latent_shards"):
        Manifest.read(path.parent)


def test_latents_from_another_autoencoder_are_refused_with_both_digests(tmp_path: Path) -> None:
    checkpoint = tmp_path / "autoencoder"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.json").write_text(json.dumps({"weights": {"model.safetensors": "0"}}))
    require_autoencoder(Manifest.read(write_latents(tmp_path / "right", autoencoder=digest(checkpoint))), checkpoint)
    wrong = Manifest.read(write_latents(tmp_path / "wrong"))
    with pytest.raises(ContractError, match=rf"autoencoder toy {'a' * 16}, but .* is {digest(checkpoint)[:16]}"):
        require_autoencoder(wrong, checkpoint)


def test_actions_without_a_word_on_their_columns_are_refused(tmp_path: Path) -> None:
    folder = write_latents(tmp_path / "latents")
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "actions": None}))
    manifest = Manifest.read(folder)
    manifest.require(["latents"], "a flow")
    with pytest.raises(ContractError, match="does not say what the columns of actions are, which a world model reads"):
        manifest.require(iter(["actions"]), "a world model")
