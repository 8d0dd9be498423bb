"""The three stages on a small folder of latents with known factors, and the mistakes they report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.data.shards import Shards
from pipelines.models.latent_mae import LatentMae
from pipelines.params import Params
from pipelines.representation import codebook, exemplars, quantiser
from pipelines.representation.diagnostics import diagnose
from pipelines.representation.embedding import Embedding, canonical
from pipelines.representation.extraction import extract, keyframes
from pipelines.representation.latent_mae import copied_mean, masked_error, train
from pipelines.representation.params import Alignment, EmbeddingParams, Kmeans, Vq
from pipelines.representation.passes import Samples
from pipelines.representation.pseudo_classes import baselines, cluster
from pipelines.representation.ranks import Ranks
from pipelines.stage import StageError
from tests.representation import toy

KMEANS = Kmeans(kind="kmeans", restarts=2, max_iterations=100)
VQ = Vq(kind="vq", steps=60, batch_size=64, decay=0.9, revive_below=0.1)


class Chain:
    """Folders of the three stages under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.autoencoder, self.latents = root / "autoencoder", root / "latents"
        self.mae, self.classes, self.report = root / "mae", root / "classes", root / "report"

    def numbers(self, name: str) -> dict:
        return json.loads((self.root / f"{name}.json").read_text())

    def files(self, name: str) -> tuple[Path, Path]:
        return self.root / f"{name}.json", self.root / "plots" / name

    def retrain(self) -> None:
        shutil.rmtree(self.mae, ignore_errors=True)
        train(toy.mae_params(), self.latents, self.mae, *self.files("mae"))

    def cluster(self, **changes: object) -> dict:
        cluster(toy.class_params(**changes), self.latents, self.mae, self.classes, *self.files("classes"))
        return self.numbers("classes")

    def diagnose(self, **changes: object) -> dict:
        places = (self.latents, self.mae, self.classes, self.autoencoder, self.report)
        diagnose(toy.diagnostics_params(**changes), *places, *self.files("report"))
        return self.numbers("report")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """All three stages, run once."""
    chain = Chain(tmp_path_factory.mktemp("chain"))
    toy.autoencoder(chain.autoencoder)
    toy.latents(chain.latents, chain.autoencoder)
    train(toy.mae_params(), chain.latents, chain.mae, *chain.files("mae"))
    chain.cluster()
    chain.diagnose()
    return chain


@pytest.fixture
def chain(made: Chain, tmp_path: Path) -> Chain:
    """A copy that a test may change."""
    shutil.copytree(made.root, tmp_path / "copy")
    return Chain(tmp_path / "copy")


# ---- latent_mae ---------------------------------------------------------------------------------------------------


def test_the_encoder_is_trained_measured_and_loads_again(made: Chain) -> None:
    numbers = made.numbers("mae")
    assert {"masked_error", "unmasked_error", "copy_mean_error", "rankme", "probes"} <= numbers.keys()
    assert set(numbers["probes"]) == {"features", "random_encoder", "raw_latents"}
    assert numbers["probes"]["features"]["direction"]["accuracy_chance"] == 0.5
    features = LatentMae.from_pretrained(made.mae).features(
        torch.zeros(1, toy.CHANNELS, toy.FRAMES, toy.SIDE, toy.SIDE)
    )
    assert features["block1_mean"].shape == (1, 12)


def test_only_hidden_places_count() -> None:
    latents, predicted = torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2)
    hidden = torch.tensor([[[[[True, False], [False, False]]]]])
    predicted[..., 0, 0], predicted[..., 1, 1] = 2.0, 100.0
    assert masked_error(latents, predicted, hidden).tolist() == [4.0]


def test_the_copied_mean_is_of_visible_places() -> None:
    latents = torch.tensor([[[[[100.0, 1.0], [2.0, 3.0]]]]])
    hidden = torch.tensor([[[[[True, False], [False, False]]]]])
    assert copied_mean(latents, hidden).item() == 2.0


def test_an_unknown_feature_is_named_before_training(made: Chain, tmp_path: Path) -> None:
    params = toy.mae_params(probe={"features": ["block9_mean"]})
    with pytest.raises(StageError, match="no feature block9_mean"):
        train(params, made.latents, tmp_path / "mae", tmp_path / "m.json", tmp_path / "plots")
    assert not (tmp_path / "mae").exists()


def test_a_patch_that_does_not_fit_is_named(made: Chain, tmp_path: Path) -> None:
    params = toy.mae_params(architecture={"patch": [1, 3, 3]})
    with pytest.raises(StageError, match=r"latent_mae.architecture.patch.*\(3, 4, 4\)"):
        train(params, made.latents, tmp_path / "mae", tmp_path / "m.json", tmp_path / "plots")


# ---- pseudo_classes -----------------------------------------------------------------------------------------------


def test_classes_follow_colour_and_direction_far_above_chance(made: Chain) -> None:
    agreement = made.numbers("classes")["agreement"]
    for name in ("identity", "motion"):
        assert agreement[name]["nmi"] > agreement[name]["nmi_chance"] + 0.3
    assert set(made.numbers("classes")["nmi_other_spaces"]) == {"raw_latents", "pca_latents", "text", "block1"}
    beside = {one["name"]: one for one in made.numbers("classes")["baselines"]}
    assert {name.partition(" over ")[2] for name in beside} == {"pca_latents", "block1"}
    assert all(one["verdict"] == ("pass" if one["value"] > one["threshold"] else "fail") for one in beside.values())


def test_spaces_with_fewer_different_samples_than_classes_have_no_agreement_and_say_so(made: Chain) -> None:
    shards = Shards(made.latents)
    is_train = shards.index["split"].to_numpy() == "train"
    factors = {"half": np.arange(len(shards)) % 2}
    found, unavailable = baselines(toy.class_params(), shards, is_train, factors, int(is_train.sum()) + 1)
    assert found == {}
    assert set(unavailable) == {f"nmi_other_spaces/{name}" for name in ("raw_latents", "pca_latents", "text")}
    assert all("more than the" in reason for reason in unavailable.values())


def test_every_sample_has_the_class_of_its_nearest_centre(made: Chain) -> None:
    table = pd.read_parquet(made.classes / "assignments.parquet")
    assert list(table.columns) == ["key", "pseudo_class", "distance", "margin", "split"]
    assert len(table) == 72
    assert table["key"].is_unique
    assert set(table["pseudo_class"]) == set(range(6))
    assert (table["distance"] >= 0).all() and (table["margin"] >= 0).all()


def test_the_same_command_makes_the_same_classes(chain: Chain) -> None:
    before = pd.read_parquet(chain.classes / "assignments.parquet")
    chain.cluster()
    pd.testing.assert_frame_equal(before, pd.read_parquet(chain.classes / "assignments.parquet"))


def test_more_classes_than_train_samples_is_refused_and_earlier_classes_stay(chain: Chain) -> None:
    before = sorted(chain.classes.iterdir())
    with pytest.raises(StageError, match="num_classes 61 is more than the 60 train samples"):
        chain.cluster(num_classes=61)
    assert sorted(chain.classes.iterdir()) == before


@pytest.mark.parametrize("how", [KMEANS, VQ], ids=["kmeans", "vq"])
def test_fewer_different_embeddings_than_classes_is_refused(how: Kmeans | Vq) -> None:
    samples = Samples(np.repeat(np.eye(2), 10, axis=0).astype(np.float32), np.arange(20))
    with pytest.raises(StageError, match="only 2 different embeddings"):
        quantiser.fit(samples, 3, how, 0, Ranks.alone())


@pytest.mark.costly
def test_the_fallback_is_taken_when_occupancy_fails_and_both_are_recorded(chain: Chain) -> None:
    rule = {"num_classes": 2, "min_entropy_ratio": 0.0, "max_near_empty_share": 0.0, "near_empty": 8}
    decision = chain.cluster(num_classes=20, fallback=rule)["decision"]
    assert decision["reason"].startswith("fallback: near-empty share")
    assert (decision["first"]["num_classes"], decision["fallback"]["num_classes"]) == (20, 2)
    assert codebook.read(chain.classes).codebook.centroids.shape[0] == 2


def test_a_sample_that_is_not_finite_is_named(chain: Chain) -> None:
    shutil.rmtree(chain.latents)
    toy.latents(chain.latents, chain.autoencoder, broken=7)
    with pytest.raises(StageError, match="not finite, first clip-0007"):
        chain.cluster()


@pytest.mark.costly
def test_data_without_factors_has_classes_and_says_what_is_missing(chain: Chain) -> None:
    shutil.rmtree(chain.latents)
    toy.latents(chain.latents, chain.autoencoder, known=False)
    numbers = chain.cluster()
    assert "agreement" not in numbers
    assert "no known factors" in numbers["unavailable"]["agreement"]
    report = chain.diagnose()
    assert "no known factors" in report["unavailable"]["agreement"]
    gates = {gate["name"]: gate for gate in report["gates"]}
    for name in ("agreement_identity", "agreement_motion"):
        assert "value" not in gates[name] and "no known factors" in gates[name]["reason"]


# ---- the embedding ------------------------------------------------------------------------------------------------

PLAIN = {
    "num_keyframes": 3,
    "text": {"weight": 2.0},
    "keyframes": {"features": ("a",), "weight": 1.0},
    "motion": None,
    "alignment": None,
}


def fitted(params: EmbeddingParams, parts: dict[str, np.ndarray]) -> Embedding:
    """An embedding fitted on all rows of some parts."""
    rows = np.arange(len(parts["text"]))
    return Embedding.fit(params, lambda some: {name: v[some] for name, v in parts.items()}, rows, Ranks.alone())


def test_parts_have_the_share_of_variance_that_their_weights_say() -> None:
    rng = np.random.default_rng(0)
    parts = {"text": 100 * rng.normal(size=(50, 3)) + 7, "keyframes": 0.01 * rng.normal(size=(50, 9))}
    h = fitted(EmbeddingParams.model_validate(PLAIN), parts).apply(parts)
    assert (h[:, :3] ** 2).sum(1).mean() == pytest.approx(4, rel=1e-4)
    assert (h[:, 3:] ** 2).sum(1).mean() == pytest.approx(1, rel=1e-4)


def test_alignment_keeps_what_both_sides_know() -> None:
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(500, 1)), rng.normal(size=(500, 3))
    text, seen = np.hstack([shared, 3 * own]), np.hstack([3 * rng.normal(size=(500, 3)), -shared])
    _, _, correlations = canonical(np.cov(np.hstack([text, seen]).T), 4, 0.0)
    assert correlations[0] > 0.99
    assert correlations[1] < 0.3
    params = EmbeddingParams.model_validate({**PLAIN, "alignment": Alignment(components=2, ridge=0.0, power=4.0)})
    h = fitted(params, {"text": text, "keyframes": seen}).apply({"text": text, "keyframes": seen})
    assert abs(np.corrcoef(h[:, 0], shared[:, 0])[0, 1]) > 0.99
    assert h[:, 1].std() < 0.1 * h[:, 0].std()


def test_weights_act_on_an_aligned_embedding_even_without_a_ridge() -> None:
    rng = np.random.default_rng(0)
    parts = {
        "text": rng.normal(size=(60, 3)),
        "keyframes": rng.normal(size=(60, 4)),
        "motion": rng.normal(size=(60, 2)),
    }
    aligned = {**PLAIN, "alignment": Alignment(components=2, ridge=0.0, power=1.0)}
    aligned["motion"] = {"features": ("b",), "weight": 1.0}
    heavier = {**aligned, "motion": {"features": ("b",), "weight": 3.0}}
    plain, heavy = (fitted(EmbeddingParams.model_validate(one), parts) for one in (aligned, heavier))
    first, second = plain.apply(parts), heavy.apply(parts)
    np.testing.assert_allclose(second[:, -2:], 3 * first[:, -2:], rtol=1e-4)
    np.testing.assert_allclose(second[:, :-2], first[:, :-2], rtol=1e-4)
    assert plain.text_width == 4 and plain.width == first.shape[1] == 8


def test_keyframe_features_are_read_from_keyframes_alone(made: Chain) -> None:
    shards, encoder = Shards(made.latents), LatentMae.from_pretrained(made.mae)
    clips = torch.from_numpy(shards.load(range(4), "latents").astype(np.float32))
    found = extract(shards, np.arange(4), encoder, ["block1_mean"], 4, 2)["block1_mean"]
    clips[:, :, 1] = 99.0  # not a keyframe
    expected = encoder.features(clips[:, :, [0, 2]], ["block1_mean"], [0, 2])["block1_mean"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert keyframes(21, 4) == [0, 7, 13, 20] and keyframes(3, 9) == [0, 1, 2]


def test_a_part_that_never_varies_is_refused() -> None:
    with pytest.raises(StageError, match=r"embedding.text: the same for all 5 samples"):
        fitted(EmbeddingParams.model_validate(PLAIN), {"text": np.ones((5, 2)), "keyframes": np.eye(5)})


def test_an_embedding_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one of text, keyframes and motion"):
        EmbeddingParams(num_keyframes=2, text=None, keyframes=None, motion=None, alignment=None)
    assert issubclass(EmbeddingParams, Params)


# ---- diagnostics --------------------------------------------------------------------------------------------------


def test_the_report_has_every_block_and_its_files(made: Chain) -> None:
    numbers = made.numbers("report")
    blocks = {
        "separation",
        "retrieval",
        "held_out",
        "occupancy",
        "kernel",
        "collapse",
        "agreement",
        "probes",
        "stability",
        "gates",
    }
    assert blocks <= numbers.keys()
    assert numbers["unavailable"] == {"test": "the index has no split test; raw_video makes it"}
    assert set(numbers["kernel"]) == {"block1_mean"} and set(numbers["collapse"]) == {"input_moving", "input_path", "h"}
    assert json.loads((made.report / "gates.json").read_text()) == {"gates": numbers["gates"]}
    near = pq.read_table(made.report / "neighbours.parquet").to_pandas()
    assert len(near) == 72 * 10
    assert (near["key"] != near["neighbour"]).all()
    assert list(pd.read_parquet(made.report / "projection.parquet").columns) == ["key", "x", "y", "pseudo_class"]


def test_every_picture_is_there_and_small(made: Chain) -> None:
    expected = {
        "mae": {"masked", "probes", "spectrum", "validation"},
        "classes": {"occupancy", "agreement", "composition"},
        "report": {
            "occupancy",
            "projection",
            "kernel",
            "exemplars",
            "exemplars_clips",
            "exemplars_of_all",
            "retrieval",
        },
    }
    for stage, names in expected.items():
        folder = made.root / "plots" / stage
        assert {path.stem for path in folder.glob("*.png")} == names
        for path in folder.glob("*.png"):
            assert path.stat().st_size < 500_000  # frames of an untrained decoder are noise, the worst case
            with Image.open(path) as picture:
                assert picture.convert("L").getextrema()[0] < 128  # something is drawn
                assert 800 <= picture.width <= 1400 or path.stem == "validation"  # as wide as its few toy frames


def test_exemplars_play_all_their_frames(made: Chain) -> None:
    path = made.root / "plots/report/playing.gif"
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) == 1 + 4 * (toy.FRAMES - 1)
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == pytest.approx(1000 / 8, abs=10)


@pytest.mark.costly
def test_classes_of_another_encoder_are_refused(chain: Chain) -> None:
    shutil.rmtree(chain.mae)
    train(toy.mae_params(training={"seed": 5}), chain.latents, chain.mae, *chain.files("mae"))
    with pytest.raises(StageError, match="classes were made with latent_mae"):
        chain.diagnose()


def test_classes_of_other_latents_are_refused(chain: Chain) -> None:
    shutil.rmtree(chain.latents)
    toy.latents(chain.latents, chain.autoencoder, count=66)
    with pytest.raises(StageError, match="classes were made with latents"):
        chain.diagnose()


def test_assignments_of_another_codebook_are_refused(chain: Chain) -> None:
    kept = (chain.classes / "assignments.parquet").read_bytes()
    chain.cluster(num_classes=5)
    (chain.classes / "assignments.parquet").write_bytes(kept)
    with pytest.raises(StageError, match=r"assignments.parquet: of codebook"):
        chain.diagnose()


@pytest.mark.costly
def test_too_few_samples_for_a_metric_leave_it_out_with_a_reason(chain: Chain) -> None:
    report = chain.diagnose(max_samples=9, neighbours=[1, 72])
    assert "retrieval" not in report
    assert "72 samples, top-72 needs more than 72" in report["unavailable"]["retrieval"]
    gates = {gate["name"]: gate for gate in report["gates"]}
    assert gates["retrieval_excess"]["verdict"] == "warn"
    assert "72" in gates["retrieval_excess"]["reason"]
    assert report["num_samples"] == 9


@pytest.mark.costly
def test_nothing_that_is_reported_depends_on_what_test_clips_show(made: Chain, tmp_path: Path) -> None:
    """Two data sets that differ in their test clips alone: the same numbers, the same classes of what may be seen."""
    chains = [Chain(tmp_path / name) for name in ("one", "two")]
    for chain, scale in zip(chains, (1.0, 3.0), strict=True):
        toy.autoencoder(chain.autoencoder)
        toy.latents(chain.latents, chain.autoencoder, judged=[scale] * 18)
        shutil.copytree(made.mae, chain.mae)
        chain.cluster()
        chain.diagnose()
    one, two = chains
    for name in ("classes", "report"):
        numbers = [chain.numbers(name) for chain in chains]
        for one_of in numbers:
            one_of.pop("test", None)  # the one line that may read them
        assert numbers[0] == numbers[1]
    tables = [pd.read_parquet(chain.classes / "assignments.parquet") for chain in chains]
    assert len(tables[0]) == 90 and (tables[0]["split"] == "test").sum() == 18
    seen = tables[0]["split"] != "test"
    assert tables[0][seen].equals(tables[1][seen]) and not tables[0]["distance"].equals(tables[1]["distance"])
    assert one.numbers("report")["num_samples_total"] == 72
    for chain in (one, two):
        asked = pd.read_parquet(chain.report / "neighbours.parquet")
        assert not set(asked["key"]) & set(tables[0]["key"][~seen])
        assert not set(asked["neighbour"]) & set(tables[0]["key"][~seen])


@pytest.mark.costly
def test_one_line_reads_the_test_split_and_nothing_else_changes(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(chain.latents)
    toy.latents(chain.latents, chain.autoencoder, count=96, tested=24)
    chain.retrain()
    chain.cluster()
    report = chain.diagnose()
    assert "test split, 24 clips: text_to_keyframes_top5" in capsys.readouterr().out
    assert report["num_samples_total"] == 72
    assert report["test"]["text_to_keyframes_top5"] > report["test"]["text_to_keyframes_top5_chance"]


def test_every_class_has_its_exemplars_in_pages(tmp_path: Path) -> None:
    class Flat:
        def clips(self, rows: np.ndarray) -> np.ndarray:
            return np.full((len(rows), 3, 8, 8, 3), 0.5)

    labels = np.arange(2 * exemplars.PAGE + 3).repeat(2)
    h = labels[:, None].astype(float)
    exemplars.draw_pages(Flat(), h, labels, h[::2], tmp_path / "all.png")  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == {"all.png", "all_002.png", "all_003.png"}
