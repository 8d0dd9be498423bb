"""The evaluation scores every generator beside real clips, says what it could not score, and repeats itself exactly."""

import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipelines.data.shards import Shards
from pipelines.data.video import read_clip
from pipelines.evaluation.decoder import ClipDecoder
from pipelines.evaluation.judge import Clips, Scores, chance, features_of, grouped
from pipelines.evaluation.params import KnownFactors
from pipelines.evaluation.parts import parts_of, real_latents
from pipelines.evaluation.probe import Labels, Probe, train_clip_reader, train_frame_reader
from pipelines.evaluation.resampling import Estimate
from pipelines.evaluation.score import compared_systems, score
from pipelines.evaluation.systems import Requests, classes_of_prompts, generate, load_systems
from pipelines.models.latent_mae import LatentMae
from pipelines.params import ParamsError, parse_section
from pipelines.stage import StageError
from pipelines.training.generator import Generator
from tests.evaluation import toy

SYSTEMS = {"rectified_flow", "anchored_flow_identity", "anchored_flow_motion", "anchored_flow_unified"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = toy.world(tmp_path_factory.mktemp("world"))
    score(toy.params(), **paths)
    return paths


def test_every_system_and_reference_has_every_score(scored: dict[str, Path]) -> None:
    found = json.loads(scored["metrics"].read_text())
    assert set(found["systems"]) == SYSTEMS
    assert set(found["references"]) == {"held_out", "frozen", "noise", "chance"}
    scores = {
        "kernel_distance",
        "kernel_distance_low",
        "kernel_distance_high",
        "kernel_distance_motion",
        "variety",
        "copied_share",
        "nearest_training",
        "frechet",
        "frechet_motion",
        "motion_ratio",
        "frame_difference",
        "temporal_consistency",
        "psnr",
        "agreement",
    }
    for one in found["systems"].values():
        assert scores <= set(one)
        assert {"color", "direction", "all_identity", "all_motion", "all_motion_low"} <= set(one["agreement"])
        assert one["kernel_distance_low"] <= one["kernel_distance_high"]
    assert found["references"]["held_out"]["motion_ratio"] == pytest.approx(1.0)
    assert found["references"]["frozen"]["motion_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert found["systems"]["anchored_flow_identity"]["motion_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert "psnr" not in found["references"]["held_out"] and "references/held_out/psnr" in found["unavailable"]


def test_samples_are_listed_with_what_they_show_and_some_are_written(scored: dict[str, Path]) -> None:
    samples = pd.read_parquet(scored["out"] / "samples.parquet")
    assert {"system", "prompt", "key", "seed", "file", "factor_color", "probe_color"} <= set(samples.columns)
    assert set(samples["seed"]) == {0, 1}  # six prompts, each sampled with two seeds
    assert len(samples) == 6 * 2 * (len(SYSTEMS) + 3) and set(samples["system"]) == {
        *SYSTEMS,
        "held_out",
        "frozen",
        "noise",
    }
    files = samples["file"].dropna()
    assert len(files) == 2 * 5 and len({file.split("-")[1] for file in files}) == 5
    assert all(read_clip(scored["out"] / file).shape == (9, 32, 32, 3) for file in files)
    assert {path.name for path in scored["plots"].iterdir()} == {"contact_sheet.png", "scores.png"}


@pytest.mark.costly
def test_the_same_inputs_give_the_same_numbers(scored: dict[str, Path], tmp_path: Path) -> None:
    again = {**scored, "out": tmp_path / "out", "metrics": tmp_path / "metrics.json", "plots": tmp_path / "plots"}
    score(toy.params(), **again)
    first, second = (json.loads(one["metrics"].read_text()) for one in (scored, again))
    assert first.pop("seconds") >= 0 and second.pop("seconds") >= 0
    assert first == second
    assert (again["out"] / "samples.parquet").read_bytes() == (scored["out"] / "samples.parquet").read_bytes()


@pytest.mark.costly
def test_several_seeds_give_a_sample_each(scored: dict[str, Path], tmp_path: Path) -> None:
    again = {**scored, "out": tmp_path / "out", "metrics": tmp_path / "metrics.json", "plots": tmp_path / "plots"}
    score(toy.params(seeds=[0, 7], num_prompts=2), **again)
    samples = pd.read_parquet(again["out"] / "samples.parquet")
    assert len(samples) == 4 * (len(SYSTEMS) + 3)
    assert set(samples["seed"]) == {0, 7}
    assert len(set(samples["key"])) == 2
    assert json.loads(again["metrics"].read_text())["num_samples"] == 4


@pytest.mark.costly
def test_data_without_factors_is_scored_without_agreement(tmp_path: Path) -> None:
    paths = toy.world(tmp_path, factors=False)
    score(toy.params(), **paths)
    found = json.loads(paths["metrics"].read_text())
    assert "agreement" in found["unavailable"] and "chance" not in found["references"]
    assert all("agreement" not in one for one in found["systems"].values())


def test_a_generator_of_other_latents_is_refused_before_work(scored: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(scored["checkpoints"], tmp_path / "checkpoints")
    other = toy.write_latent_mae(tmp_path / "other")
    flow = toy.write_flow(tmp_path / "checkpoints" / "flow", other, 0.0, False, None)
    with pytest.raises(StageError, match="trained on latents of autoencoder toy"):
        score(toy.params(), **{**scored, "checkpoints": flow.parent, "out": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


def test_an_unknown_feature_is_named_with_those_that_exist(scored: dict[str, Path], tmp_path: Path) -> None:
    space = {"appearance": ["block9_mean"], "motion": ["block1_path"], "dims": 3, "shrinkage": 0.1}
    with pytest.raises(StageError, match=r"feature_space: no feature block9_mean; this latent MAE has .*block1_mean"):
        score(toy.params(feature_space=space), **{**scored, "out": tmp_path / "out"})


def test_another_autoencoder_or_damaged_weights_are_refused_before_work(
    scored: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("autoencoder", "latent_mae"):
        checkpoints = tmp_path / name
        shutil.copytree(scored["checkpoints"], checkpoints)
        weights = next((checkpoints / name).glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
        expected = r"made by autoencoder toy .*but .*autoencoder is|not the weights that checkpoint\.json records"
        with pytest.raises(StageError, match=expected):
            score(toy.params(), **{**scored, "checkpoints": checkpoints, "out": tmp_path / "out"})


@pytest.mark.costly
def test_generators_are_found_whatever_they_are_called(scored: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint that somebody puts into the folder is scored like the others; one of a foreign kind is told."""
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(scored["checkpoints"], checkpoints)
    for name in SYSTEMS - {"rectified_flow"}:
        shutil.rmtree(checkpoints / name)
    (checkpoints / "rectified_flow").rename(checkpoints / "mine")
    places = {"out": tmp_path / "out", "metrics": tmp_path / "metrics.json", "plots": tmp_path / "plots"}
    paths = {**scored, "checkpoints": checkpoints, **places}
    score(toy.params(), **paths)
    assert set(json.loads(paths["metrics"].read_text())["systems"]) == {"mine"}
    description = checkpoints / "mine" / "generator.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "kind": "oracle"}))
    with pytest.raises(StageError, match="kind 'oracle'; this program knows flow"):
        score(toy.params(), **paths)
    shutil.rmtree(checkpoints / "mine")
    with pytest.raises(StageError, match="holds no generator"):
        score(toy.params(), **paths)


def test_a_generator_gets_what_it_needs_and_no_more(scored: dict[str, Path]) -> None:
    """Frames of the real clip only for those who cannot do without them."""
    shards = Shards(scored["latents"])
    rows = shards.rows("test").tolist()[:3]
    requests = Requests.of(shards, rows, torch.zeros(3, dtype=torch.int64), [0])
    plain = Generator.load(scored["checkpoints"] / "rectified_flow")
    told = requests.part(plain, slice(0, 2))
    assert "keyframes" not in told and "first_frame" not in told and len(told["prompt_embeds"]) == 2
    needy = replace(plain, needs=("prompt", "keyframes", "first_frame"))
    told = requests.part(needy, slice(0, 2))
    assert told["keyframe_mask"].tolist() == [[True, False, True]] * 2
    assert not told["keyframes"][:, :, 1].any() and told["keyframes"][:, :, 0].any()
    assert torch.equal(told["first_frame"], told["keyframes"][:, :, :1])
    with pytest.raises(StageError, match="needs actions, which these latents do not have"):
        requests.part(replace(plain, needs=("prompt", "actions")), slice(0, 1))


@pytest.mark.costly
def test_other_splits_stand_beside_the_test_split(scored: dict[str, Path], tmp_path: Path) -> None:
    found = json.loads(scored["metrics"].read_text())
    assert set(found["validation"]) == set(found["composition"]) == {*SYSTEMS, "held_out"}
    assert "kernel_distance" in found["validation"]["rectified_flow"]
    assert set(found["composition"]["rectified_flow"]) == {"agreement"}
    index = scored["latents"] / "index.parquet"
    latents = tmp_path / "latents"
    shutil.copytree(scored["latents"], latents)
    table = pd.read_parquet(index)
    table["split"] = table["split"].replace({"test": "train", "composition": "train"})
    table.to_parquet(latents / "index.parquet")
    manifest = json.loads((latents / "manifest.json").read_text())
    manifest["splits"] = {name: int(count) for name, count in table["split"].value_counts().items()}
    (latents / "manifest.json").write_text(json.dumps(manifest))
    paths = {**scored, "latents": latents, "out": tmp_path / "out", "metrics": tmp_path / "metrics.json"}
    score(toy.params(), **{**paths, "plots": tmp_path / "plots"})
    without = json.loads(paths["metrics"].read_text())
    assert "has no test split" in without["unavailable"]["test"] and "validation" not in without


def test_pairs_are_compared_and_who_copies_has_no_distance_that_counts(scored: dict[str, Path]) -> None:
    pairs = json.loads((scored["out"] / "comparisons.json").read_text())
    assert len(pairs) == 4 * 5 // 2 and "rectified_flow against held_out" in pairs
    for row in pairs.values():
        assert {"kernel_distance", "motion_ratio", "agreement/all_motion"} <= set(row)
    draws = torch.linspace(0.4, 0.6, 20, dtype=torch.float64)
    copied, honest = Estimate(0.5, draws), Estimate(0.05, draws * 0.1)
    scores = {
        name: Scores({"kernel_distance": Estimate(0.0, draws * 0), "copied_share": share}, {}, {})
        for name, share in (("thief", copied), ("honest", honest))
    }
    verdict = compared_systems(scores)["thief against honest"]["kernel_distance"]["verdict"]
    assert verdict == "thief copies training clips"


@pytest.mark.costly
def test_a_factor_that_the_clips_lack_is_told(scored: dict[str, Path], tmp_path: Path) -> None:
    reader = toy.params().probe.clips.model_dump()
    factors = {"identity": ["colour"], "motion": ["direction"], "scene": []}
    paths = {**scored, "out": tmp_path / "out", "metrics": tmp_path / "metrics.json", "plots": tmp_path / "plots"}
    score(toy.params(probe={"factors": factors, "frames": reader, "clips": reader}), **paths)
    missing = json.loads(paths["metrics"].read_text())["unavailable"]["agreement/colour"]
    assert missing == "evaluation.probe.factors names it; the clips have color, direction"


def test_a_training_clip_without_class_is_named(scored: dict[str, Path], tmp_path: Path) -> None:
    folder = toy.write_classes(tmp_path / "classes")
    pd.read_parquet(folder / "assignments.parquet").iloc[1:].to_parquet(folder / "assignments.parquet")
    shards = Shards(scored["latents"])
    with pytest.raises(StageError, match="1 training clips have no class, first clip-000"):
        classes_of_prompts(shards, folder, [0], 1)


@pytest.mark.costly
def test_one_set_of_clips_is_decoded_at_a_time_beside_the_real_ones(
    scored: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels of all systems at once were four GiB in the demo."""
    alive: list[weakref.ref[torch.Tensor]] = []
    decoded, most = ClipDecoder.__call__, 0

    def counted(self: ClipDecoder, latents: torch.Tensor, what: str, copies: int = 1) -> Clips:
        nonlocal most
        clips = decoded(self, latents, what, copies)
        alive.append(weakref.ref(clips.video))
        most = max(most, sum(one() is not None for one in alive))
        return clips

    monkeypatch.setattr(ClipDecoder, "__call__", counted)
    places = {name: tmp_path / name for name in ("out", "metrics", "plots")}
    score(toy.params(), **{**scored, **places})
    assert len(alive) > len(SYSTEMS) and most == 3, "real clips, and where others are judged beside them, two more"


def test_clips_that_are_equal_for_every_seed_are_decoded_once_and_others_each(
    scored: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = ClipDecoder(scored["checkpoints"] / "autoencoder", torch.device("cpu"))
    once, seen = real_latents(Shards(scored["latents"]), range(4)), list[int]()
    parts = ClipDecoder._parts

    def counted(self: ClipDecoder, latents: torch.Tensor, what: str) -> Iterator[torch.Tensor]:
        seen.append(len(latents))
        return parts(self, latents, what)

    monkeypatch.setattr(ClipDecoder, "_parts", counted)
    for other, many in ((once, 4), (once.flip(0), 8)):
        both = torch.cat([once, other])
        found = decoder(both, "clips", copies=2)
        assert seen == [many] and torch.equal(found.latents, both)
        assert torch.equal(found.video, decoder(both, "clips").video)
        seen.clear()


def test_in_bfloat16_clips_look_as_in_float32(scored: dict[str, Path]) -> None:
    latents = real_latents(Shards(scored["latents"]), range(4))
    decoders = (ClipDecoder(scored["checkpoints"] / "autoencoder", torch.device("cpu"), p) for p in ("fp32", "bf16"))
    one, other = (decoder(latents, "clips").video.int() for decoder in decoders)
    apart = (one - other).abs()
    assert 0 < apart.max() <= 3 and apart.float().mean() < 0.6, "in grey levels"


def test_the_encoder_is_asked_for_what_is_named_and_says_the_same(scored: dict[str, Path]) -> None:
    latents = real_latents(Shards(scored["latents"]), range(6))
    encoder = LatentMae.from_pretrained(scored["checkpoints"] / "latent_mae")
    every = encoder.features(latents)
    names = ["block1_path", "block1_mean"]
    found = features_of(encoder, latents, names)
    assert list(found) == names
    for name in names:
        torch.testing.assert_close(found[name], every[name])
    with pytest.raises(StageError, match="no feature block9_mean; this latent MAE has "):
        features_of(encoder, latents, ["block1_mean", "block9_mean"])


def test_the_class_of_a_prompt_is_that_of_equal_prompts(scored: dict[str, Path]) -> None:
    shards = Shards(scored["latents"])
    rows = shards.rows("validation").tolist()
    classes = classes_of_prompts(shards, scored["pseudo_classes"], rows, 3)
    assert classes.tolist() == [row % 4 for row in rows]


def test_a_sample_does_not_depend_on_its_batch(scored: dict[str, Path]) -> None:
    shards = Shards(scored["latents"])
    rows = shards.rows("validation").tolist()
    requests = Requests.of(shards, rows, torch.zeros(len(rows), dtype=torch.int64), [3])
    generator = Generator.load(scored["checkpoints"] / "rectified_flow")
    alone, together = (generate(name, generator, requests, size, "fp32") for name, size in (("a", 1), ("b", 3)))
    torch.testing.assert_close(alone, together)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_side_by_side_are_sampled_and_decoded_to_the_bits_of_one_thread(
    scored: dict[str, Path], precision: str
) -> None:
    shards, device = Shards(scored["latents"]), torch.device("cpu")
    rows = shards.rows("test").tolist()
    requests = Requests.of(shards, rows, torch.zeros(len(rows), dtype=torch.int64), [3])

    def made() -> dict[str, torch.Tensor]:
        decoder = ClipDecoder(scored["checkpoints"] / "autoencoder", device, precision)
        systems = load_systems(scored["checkpoints"], shards, None, device)
        found = {name: generate(name, system, requests, 2, precision) for name, system in systems.items()}
        return found | {f"{name} decoded": decoder.video(latents, name) for name, latents in found.items()}

    several = made()
    assert torch.get_num_threads() == 4
    torch.set_num_threads(1)
    for name, alone in made().items():
        assert torch.equal(several[name], alone), name


def test_readers_learn_what_clips_show(scored: dict[str, Path]) -> None:
    shards = Shards(scored["latents"])
    rows = range(len(shards))
    latents = real_latents(shards, rows)
    words = {name: shards.index[f"factor_{name}"].tolist() for name in ("color", "direction")}
    moving, shown = Labels.of({"direction": words["direction"]}), Labels.of({"color": words["color"]})
    reader = toy.params().probe.clips
    video = latents[:, :3].repeat_interleave(4, 3).repeat_interleave(4, 4).clamp(-1, 1)
    frames = train_frame_reader(video, shown, reader, 0)
    probe = Probe(frames, train_clip_reader(latents, moving, reader, 0), {**shown.values, **moving.values})
    assert probe.read(latents, video) == words


def test_chance_is_what_the_most_frequent_training_word_reaches() -> None:
    assert chance({"color": ["red", "blue", "red", "red"]}, {"color": ["blue", "blue", "red"]}) == {"color": 0.25}


def test_group_means_are_over_known_factors_only() -> None:
    factors = KnownFactors(identity=("color", "shape"), motion=("direction",), scene=())
    assert grouped(factors, {"color": 0.5}) == {"all_identity": 0.5}


def test_a_factor_in_two_groups_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("factors: {identity: [color], motion: [color], scene: []}\n")
    with pytest.raises(ParamsError, match="a factor stands in two groups"):
        parse_section(KnownFactors, "factors", path)


def test_the_reference_of_a_large_test_split_is_bounded_and_drawn_by_the_seed(scored: dict[str, Path]) -> None:
    shards = Shards(scored["latents"])
    _, every, _ = parts_of(shards, toy.params(), scored["latents"])
    few = toy.params(max_train_clips=4)
    _, reference, _ = parts_of(shards, few, scored["latents"])
    assert len(every) > len(reference) == 4 and set(reference) < set(every)
    assert reference == parts_of(shards, few, scored["latents"])[1]
