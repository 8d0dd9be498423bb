"""Comparing representations: what exceeds the noise, revisions, encoder choices, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipelines.representation import comparison, encoder_choices
from pipelines.representation.compare import compare_folders, main
from pipelines.representation.comparison import Value, as_text, compared, renamed, value_at, verdict
from pipelines.representation.diagnostics_figures import scatter
from tests.representation import toy


def numbers(silhouette: float, seed_std: float = 0.0) -> dict:
    return {"separation": {"silhouette": silhouette, "silhouette_std": 0.03, "silhouette_seed_std": seed_std}}


def project(folder: Path, silhouette: float, keys: int = 20) -> Path:
    """A folder as the diagnostics leave it."""
    for name in ("metrics", "plots/diagnostics", "data/pseudo_classes", "data/diagnostics"):
        (folder / name).mkdir(parents=True)
    (folder / "metrics/diagnostics.json").write_text(json.dumps(numbers(silhouette)))
    Image.new("RGB", (40, 30), "red").save(folder / "plots/diagnostics/kernel.png")
    table = pd.DataFrame({"key": [f"k{n}" for n in range(keys)], "pseudo_class": np.arange(keys) % 3})
    table.to_parquet(folder / "data/pseudo_classes/assignments.parquet")
    table.assign(x=0.5, y=np.arange(keys)).to_parquet(folder / "data/diagnostics/projection.parquet")
    return folder


def test_noise_is_that_of_samples_and_of_seeds() -> None:
    assert value_at(numbers(0.4, 0.04), "separation/silhouette") == Value(0.4, pytest.approx(0.05), None)
    assert value_at(numbers(0.4), "separation/nothing") is None
    assert value_at({}, "a/b/c") is None


@pytest.mark.parametrize(
    ("other", "better", "said"), [(0.5, 1, "="), (0.9, 1, "better"), (0.9, -1, "worse"), (0.9, 0, "differs")]
)
def test_only_what_exceeds_the_noise_of_both_is_a_difference(other: float, better: int, said: str) -> None:
    assert verdict(Value(0.4, 0.06, None), Value(other, 0.08, None), better, 2.0) == said
    assert verdict(None, Value(other, 0.08, None), better, 2.0) == "?"


def test_a_table_has_what_any_report_has() -> None:
    table = compared({"a": numbers(0.2), "b": {"stability": {"ari": 0.5, "ari_std": 0.1}}, "c": numbers(0.9)}, 2.0)
    assert table["number"].tolist() == ["stability/ari", "separation/silhouette"]
    assert table["b verdict"].tolist() == ["?", "?"]
    assert table["c verdict"].tolist() == ["?", "better"]


def agreeing(nmi: float, chance: float) -> dict:
    """A report of an agreement, with a kernel."""
    seen = {"mass_ratio_p50": 100 * nmi, "mass_ratio_p50_std": 1.0}
    kernel = {"f": {"tau_0.05": seen, "distance": {"positive_p50": 0.4}}}
    return {"agreement": {"motion": {"nmi": nmi, "nmi_std": 0.01, "nmi_chance": chance}}, "kernel": kernel}


def test_numbers_that_the_number_of_classes_lifts_are_compared_less_their_chance_level() -> None:
    reports = {"a": agreeing(0.5, 0.1), "b": agreeing(0.6, 0.2), "c": agreeing(0.6, 0.1)}
    table = compared(reports, 2.0)
    assert table["number"].tolist() == ["agreement/motion/nmi", "kernel/f/tau_0.05/mass_ratio_p50"]
    assert table["b verdict"].tolist() == ["=", "differs"]
    assert table["c verdict"].tolist() == ["better", "differs"]
    text = as_text(table, list(reports), 2.0)
    assert "| 0.1, 0.2, 0.1 |" in text
    assert "b against a, beyond the noise: differs: kernel/f/tau_0.05/mass_ratio_p50." in text
    assert (
        "c against a, beyond the noise: better: agreement/motion/nmi; differs: kernel/f/tau_0.05/mass_ratio_p50."
        in text
    )


def test_equal_sides_say_that_nothing_exceeds_the_noise() -> None:
    table = compared({"a": numbers(0.4), "b": numbers(0.4)}, 2.0)
    assert as_text(table, ["a", "b"], 2.0).endswith("b against a, beyond the noise: nothing.")


def test_wide_pictures_are_laid_below_one_another(tmp_path: Path) -> None:
    for name, size in (("a", (90, 20)), ("b", (80, 30))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    both = comparison._beside({name: tmp_path / f"{name}.png" for name in "ab"}, tmp_path / "both.png", height=10)
    with Image.open(both) as picture:
        assert picture.size == (90, 20 + 30 + 2 * 10)


def test_like_classes_get_like_numbers() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert renamed(np.array([5, 5, 0, 0, 3, 3]), labels).tolist() == labels.tolist()


def test_a_class_has_one_colour_in_every_picture() -> None:
    plane, figure = np.arange(8.0).reshape(4, 2), Figure()
    axes = figure.subplots(1, 2)
    scatter(axes[0], plane, np.array([0, 1, 2, 3]), "a", np.arange(4))
    scatter(axes[1], plane, np.array([1, 1, 3, 3]), "b", np.arange(4))
    first, other = ({one.get_label(): one.get_facecolor().tolist() for one in side.collections} for side in axes)
    assert other == {name: first[name] for name in ("1", "3")}


def test_folders_are_compared_with_pictures_side_by_side(tmp_path: Path) -> None:
    project(tmp_path / "a", 0.2)
    project(tmp_path / "b", 0.9)
    out = tmp_path / "out"
    out.mkdir()
    text = compare_folders({"a": tmp_path / "a", "b": tmp_path / "b"}, out, 2.0)
    assert "| better" in text and "Adjusted Rand index of the classes with those of a: b 1.00" in text
    assert {path.name for path in out.iterdir()} == {
        "table.md",
        "table.csv",
        "one_layout.png",
        "diagnostics_kernel.png",
    }
    with Image.open(out / "diagnostics_kernel.png") as picture:
        assert picture.width == 80


def test_one_side_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["only-one"])
    assert "two or more different sides" in capsys.readouterr().err


def test_raw_latents_pca_and_encoders_get_the_same_report(tmp_path: Path) -> None:
    from pipelines.models.latent_mae import LatentMae
    from pipelines.training import checkpoint

    toy.latents(tmp_path / "latents", toy.autoencoder(tmp_path / "autoencoder"), count=48)
    conv = {"family": "conv", "patch": [1, 2, 2], "width": 4, "blocks": [1, 1], "temporal_kernel": 1, "locations": 2}
    LatentMae(toy.CHANNELS, conv).save_pretrained(tmp_path / "conv")
    checkpoint.write_record(
        tmp_path / "conv", {"stage": "latent_mae", "step": 0, "inputs": {}, "code": {}, "results": {}}
    )
    asked = toy.class_params(), toy.diagnostics_params(kernel={"taus": [0.1]})
    found, measured = encoder_choices.reports(tmp_path / "latents", {"conv": tmp_path / "conv"}, *asked)
    assert list(found) == ["conv", "conv, all poolings", "conv, random weights", "raw latents", "PCA of latents"]
    blocks = {"separation", "retrieval", "occupancy", "kernel", "collapse", "agreement", "probes", "stability"}
    assert all(blocks <= report.keys() for report in found.values())
    assert measured["PCA of latents"].h.shape[0] == 48
    table = comparison.compared(found, 2.0)
    assert table[[name for name in table if not str(name).endswith(" chance")]].notna().all().all()
