"""The stage keypatch_refiner, called as a function: latents and pixels, what it leaves and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from pipelines.data.catalog import write_catalog
from pipelines.data.video import write_mp4
from pipelines.flow.keyframes import ranked
from pipelines.flow.params import Harmonic, InverseDistance
from pipelines.flow.patches import elements, fill
from pipelines.generation.drifting import keypatch
from pipelines.generation.drifting.params import KeypatchRefinerParams
from pipelines.generation.drifting.still import Pictures, cut_up
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.params import ParamsError
from pipelines.stage import StageError, digest
from pipelines.training import checkpoint
from pipelines.training.generator import Generator
from pipelines.training.picture_refining import KeypatchGenerator
from tests.generation.toy import (
    CHANNELS,
    DIM,
    FRAMES,
    SIDE,
    keypatching,
    write_classes,
    write_encoder,
    write_gates,
    write_latents,
)

PIXELS = {
    "space": "pixels",
    "encoder": {"kind": "own_encoder"},
    "keypatches": {"patch": 4, "growth": "linear", "least": 4, "levels": 2, "selection": "random"},
    "filling": {"mode": "inverse_distance", "power": 2.0},
}


class World:
    """Latents, clips, autoencoder, classes, gates and an encoder in a folder, and the stage run in it."""

    def __init__(self, folder: Path, count: int = 16) -> None:
        self.folder = folder
        self.autoencoder = write_autoencoder(folder / "checkpoints/autoencoder")
        self.latents = write_latents(folder / "latents", count, digest(self.autoencoder))
        self.clips = write_clips(folder / "clips", count)
        self.classes = write_classes(folder / "classes", self.latents, count)
        self.gates = write_gates(folder / "diagnostics")
        self.encoder = write_encoder(folder / "latent_mae", self.latents)

    def train(self, params: KeypatchRefinerParams, name: str = "keypatch_refiner") -> Path:
        out = self.folder / "checkpoints" / name
        places = {"metrics": self.folder / f"metrics/{name}.json", "plots": self.folder / f"plots/{name}"}
        read = (self.latents, self.clips, self.autoencoder, self.encoder, self.classes, self.gates)
        keypatch.train(params, *read, out=out, **places)
        return out

    def numbers(self, name: str = "keypatch_refiner") -> dict[str, Any]:
        return json.loads((self.folder / f"metrics/{name}.json").read_text())


def write_autoencoder(folder: Path, width: int = 8) -> Path:
    torch.manual_seed(0)
    StackedAutoencoder(frames=4, patch=4, width=width, latent_channels=CHANNELS, blocks=1).save_pretrained(folder)
    record = {"stage": "autoencoder", "step": 1, "run_id": "", "inputs": {}, "parent": None, "results": {}}
    checkpoint.write_record(folder, record)
    return folder


def write_clips(folder: Path, count: int, side: int = 16) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        frames = np.full((5, side, side, 3), 16 * number % 256, np.uint8)
        frames[:, :, side // 2 :] = 255 - frames[:, :, side // 2 :]
        write_mp4(folder / f"{number}.mp4", frames, 8.0)
        split = "validation" if number % 4 == 3 else "train"
        facts = {"caption": "a thing", "split": split, "num_frames": 5, "height": side, "width": side}
        facts |= {"frame_rate": 8.0, "source": "toy", "start_seconds": 0.0, "end_seconds": 0.625, "actions": None}
        rows.append({"key": f"clip-{number:03d}", "file": f"{number}.mp4", "content_hash": "0", **facts})
    write_catalog(folder, rows)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("keypatch"))
    world.train(keypatching())
    return world


def told(count: int = 2) -> dict[str, torch.Tensor]:
    clips = torch.randn(count, CHANNELS, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    mask = torch.rand(count, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) < 0.4
    mask[:, :, 0, 0] = True
    return {"keypatches": clips, "keypatch_mask": mask, "empty_prompt": torch.zeros(1, DIM)}


# ---- pictures and patches ------------------------------------------------------------------------------------------


def test_every_frame_comes_once_and_all_clips_before_any_comes_again() -> None:
    rows, frames = cut_up(np.array([3, 1, 2]))
    assert sorted(zip(rows, frames, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    assert rows[:3] == [0, 1, 2]


def test_pictures_are_frames_of_the_latents_or_pixels_of_the_clips(trained: World) -> None:
    frames, pixels = Pictures(trained.latents), Pictures(trained.latents, trained.clips)
    assert len(frames) == 16 * FRAMES and len(pixels) == 16 * 5
    one = pixels.read(pixels.keys(range(16)).index("clip-003"), ("latents", "prompt"))
    assert one["latents"].shape == (3, 1, 16, 16) and one["prompt"]
    assert abs(float(one["latents"][0, 0, 4, 2]) - (48 / 127.5 - 1)) < 0.05
    assert frames.read(0, ("latents",))["latents"].shape == (CHANNELS, 1, SIDE, SIDE)


HARMONIC = Harmonic(mode="harmonic", diagonal=True, edge_width=0.5, reach=1.0, regulariser=1e-6)
FILLINGS = [InverseDistance(mode="inverse_distance", power=2.0), HARMONIC]


@pytest.mark.parametrize("how", FILLINGS, ids=lambda how: how.mode)
def test_given_patches_stay_nothing_else_is_looked_at_and_all_lies_between_them(how: Any) -> None:
    pictures = torch.rand(3, 2, 1, 8, 12)
    given = elements(ranked(torch.rand(3, 24), [24, 9, 4], False), (4, 6), 2)
    assert given.shape == (3, 3, 1, 8, 12) and given.flatten(2).sum(2).tolist() == [[96, 36, 16]] * 3
    assert bool((given[:, 1] | ~given[:, 2]).all()), "nested"
    mask = given[:, 2]
    hidden = torch.where(mask[:, None], pictures, 7.0)
    found = fill(pictures, mask, 2, how)
    assert torch.equal(found, fill(hidden, mask, 2, how)), "a missing patch was looked at"
    assert torch.equal(torch.where(mask[:, None], found, 0), torch.where(mask[:, None], pictures, 0))
    assert float(found.min()) >= -1e-3 and float(found.max()) <= 1.0 + 1e-3
    with pytest.raises(StageError, match="nothing of a picture is given"):
        fill(pictures, torch.zeros_like(mask), 2, how)


# ---- the stage -----------------------------------------------------------------------------------------------------


def test_it_leaves_a_generator_of_clips_frame_by_frame(trained: World) -> None:
    generator = Generator.load(trained.folder / "checkpoints/keypatch_refiner")
    assert isinstance(generator, KeypatchGenerator) and generator.needs == ("keypatches",)
    given, made = told(), generator.sample(told(), [1, 2])
    shown = given["keypatch_mask"][:, None]
    assert made.shape == (2, CHANNELS, FRAMES, SIDE, SIDE)
    assert torch.equal(made * shown, given["keypatches"] * shown), "given patches come out as they went in"
    turned = {**given, **{name: given[name].flip(0) for name in ("keypatches", "keypatch_mask")}}
    torch.testing.assert_close(generator.sample(turned, [2, 1]).flip(0), made)
    assert not torch.equal(generator.sample(given, [5, 6]), made)
    alone = {**given, "keypatches": given["keypatches"][:, :, :1], "keypatch_mask": given["keypatch_mask"][:, :1]}
    assert generator.sample(alone, [1, 2]).shape == (2, CHANNELS, 1, SIDE, SIDE), "a picture is a clip of one frame"
    drawn = generator.drawn_mask([1, 2], (CHANNELS, FRAMES, SIDE, SIDE))
    assert (drawn.flatten(2).sum(2) == generator.levels[-1]).all() and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match=r"starts from patches of pictures; conditions lack keypatch_mask"):
        generator.sample({"keypatches": given["keypatches"]}, [1, 2])
    with pytest.raises(ValueError, match=r"with a mask \[2, 3\]"):
        generator.sample({**given, "keypatch_mask": given["keypatch_mask"][:, :, 0, 0]}, [1, 2])


@pytest.mark.costly
def test_evaluation_gives_the_patches_that_training_chose(tmp_path: Path) -> None:
    chosen = {"patch": 1, "growth": "linear", "least": 4, "levels": 2, "selection": {"coarsest": [0, 3, 12, 15]}}
    generator = Generator.load(World(tmp_path).train(keypatching(keypatches=chosen)))
    assert isinstance(generator, KeypatchGenerator)
    corners = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    corners[:: SIDE - 1, :: SIDE - 1] = True
    drawn = generator.drawn_mask([1, 2], (CHANNELS, FRAMES, SIDE, SIDE))
    assert torch.equal(drawn, corners.expand(2, FRAMES, SIDE, SIDE))
    larger = generator.drawn_mask([1, 2], (CHANNELS, FRAMES, 2 * SIDE, 2 * SIDE))
    assert (larger.flatten(2).sum(2) == 16).all(), "of another size as many, as at random"


def test_its_numbers_and_pictures_are_those_of_a_refiner(trained: World) -> None:
    found = trained.numbers()
    for name in ("gain", "gain_low", "distance_real", "spread_share", "interpolation_error_of_4_keypatches"):
        assert isinstance(found[f"validation/{name}"], float)
    assert {"gain", "spread", "force", "effective_positives"} == {gate["name"] for gate in found["gates"]}
    assert (trained.folder / "plots/keypatch_refiner/missing_error.png").is_file()


@pytest.mark.costly
def test_it_learns_what_filling_in_leaves_out(tmp_path: Path) -> None:
    """Pictures of the toy world are a pattern of their class's, which the class tells and a filling cannot know."""
    world = World(tmp_path, 24)
    fast = {"optimizer": {"name": "adamw", "learning_rate": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.0}}
    squared = {**keypatching().regression.model_dump(), "spread": None}
    changes = {"regression": squared, "class_dropout": 0.0, "prompt_dropout": 0.0, "noise_std": 0.1}
    world.train(keypatching(40, training={**fast, "ema": None}, drift={"begin": 38}, **changes))
    assert world.numbers()["validation/gain_low"] > 0.1


def write_resnet(folder: Path, timm: bool = False) -> ResNetModel:
    """A tiny ResNet as transformers publishes it, or under timm's names."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "bottleneck"}
    network = ResNetModel(ResNetConfig(**sizes)).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
    network.save_pretrained(folder)
    if timm:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        save_file({timm_name(name): value for name, value in weights.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    return network


def timm_name(name: str) -> str:
    parts = name.split(".")
    kind = {"convolution": "conv", "normalization": "bn"}[parts[-2]]
    if parts[0] == "embedder":
        return f"{kind}1.{parts[-1]}"
    start = f"layer{int(parts[2]) + 1}.{parts[4]}"
    if parts[5] == "shortcut":
        return f"{start}.downsample.{'01'[kind == 'bn']}.{parts[-1]}"
    return f"{start}.{kind}{int(parts[6]) + 1}.{parts[-1]}"


@pytest.mark.parametrize("timm", [False, True])
def test_a_published_resnet_is_read_whole_or_not_at_all(tmp_path: Path, timm: bool) -> None:
    from pipelines.models.picture_features import IMAGENET, ResNetFeatures

    network = write_resnet(tmp_path / "resnet", timm)
    features = ResNetFeatures(tmp_path / "resnet")
    assert features.layers == ["stem", "stage1", "stage2"]
    pictures = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in IMAGENET)
    with torch.no_grad():
        wanted = network(((pictures[:, :, 0] + 1) / 2 - mean) / std).last_hidden_state
        torch.testing.assert_close(features.maps(pictures, ["stage2"])["stage2"][:, :, 0], wanted)
        other = ResNetFeatures(tmp_path / "resnet", random=True).maps(pictures, ["stage2"])["stage2"][:, :, 0]
    assert not torch.allclose(other, wanted)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "resnet/model.safetensors")
    left = dict(list(weights.items())[:-3])
    save_file(left, tmp_path / "resnet/model.safetensors")
    with pytest.raises(StageError, match="not the weights of this ResNet"):
        ResNetFeatures(tmp_path / "resnet")
    with pytest.raises(StageError, match=r"nowhere: no ResNet .* without them use encoder: \{kind: own_encoder\}"):
        ResNetFeatures(tmp_path / "nowhere")


@pytest.mark.costly
@pytest.mark.parametrize("encoder", ["own_encoder", "resnet"])
def test_pixels_are_refined_in_features_of_pixels(tmp_path: Path, encoder: str) -> None:
    world = World(tmp_path)
    layers, chosen = ["layer1"], {"kind": encoder}
    if encoder == "resnet":
        write_resnet(tmp_path / "resnet")
        layers, chosen = ["stage1"], {"kind": "resnet", "folder": str(tmp_path / "resnet")}
    shown = {"clips": 4, "samples": 2, "shown": 3, "resamples": 20}
    drift = {"begin": 1, "features": of_pixels(layers)}
    out = world.train(keypatching(3, drift=drift, **{**PIXELS, "encoder": chosen, "validation": shown}))
    assert (tmp_path / "plots/keypatch_refiner/samples.png").is_file()
    generator = Generator.load(out)
    assert isinstance(generator, KeypatchGenerator)
    assert generator.space == "pixels" and generator.shape == (3, 1, 16, 16)
    mask = generator.drawn_mask([0], (3, 2, 16, 16))
    given = {"keypatches": torch.rand(1, 3, 2, 16, 16), "keypatch_mask": mask, "empty_prompt": torch.zeros(1, DIM)}
    assert generator.sample(given, [0]).shape == (1, 3, 2, 16, 16)
    with pytest.raises(StageError, match=r"names the layer 'stage9'; this encoder has"):
        world.train(keypatching(2, drift={"features": of_pixels(["stage9"])}, **{**PIXELS, "encoder": chosen}))


def of_pixels(layers: list[str]) -> Mapping[str, Any]:
    features = keypatching().drift.features.model_dump(mode="json")  # type: ignore[union-attr]
    names = [f"{layer}_mean" for layer in layers]
    return {**features, "maps": {**features["maps"], "layers": layers}, "statistics": {"names": names, "weight": 1.0}}


def test_what_does_not_fit_is_told_before_anything_is_built(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(
        StageError, match=r"keypatches\.patch: pictures of 4 x 4 are not a whole number of patches of 3"
    ):
        world.train(
            keypatching(keypatches={"patch": 3, "growth": "linear", "least": 4, "levels": 2, "selection": "random"})
        )
    with pytest.raises(StageError, match=r"keypatches: 20 levels from 4 of 16 .*levels from 1 to 12 would do"):
        world.train(
            keypatching(keypatches={"patch": 1, "growth": "linear", "least": 4, "levels": 20, "selection": "random"})
        )
    with pytest.raises(ValueError, match="a latent_mae sees latents, own_encoder and resnet see pixels"):
        keypatching(encoder={"kind": "own_encoder"})
    with pytest.raises(ParamsError, match="micro_batch 3 would cut a unit of 2 samples"):
        world.train(keypatching(training={"batch_size": 6, "micro_batch": 3}))
    own, world.autoencoder = world.autoencoder, write_autoencoder(tmp_path / "other", width=16)
    with pytest.raises(StageError, match=r"other.* is [0-9a-f]{12}"):
        world.train(keypatching(drift={"features": of_pixels(["layer1"])}, **PIXELS))
    world.autoencoder, world.encoder = own, write_encoder(tmp_path / "mae", write_latents(tmp_path / "elsewhere", 8))
    with pytest.raises(StageError, match=r"trained on latents [0-9a-f]{12}, but .*run latent_mae again"):
        world.train(keypatching())
    world.clips = write_clips(tmp_path / "fewer", 8)
    with pytest.raises(StageError, match=r"fewer: 8 clips of .* are not there, first clip-008"):
        world.train(keypatching(drift={"features": of_pixels(["layer1"])}, **PIXELS))
