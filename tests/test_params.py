"""params.yaml: every mistake at once, with file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines import params
from pipelines.params import (
    Count,
    Muon,
    Names,
    Optimizer,
    Pair,
    Params,
    ParamsError,
    Real,
    Share,
    Training,
    parse_section,
    read_document,
    section_class,
)


class Block(Params):
    """A nested block."""

    weight: Real
    every: Count


class Section(Params):
    """A section with all kinds of values."""

    steps: Count
    share: Share
    window: Pair
    names: Names
    block: Block | None
    optimizer: Optimizer


GOOD = """\
section:
  steps: 3
  share: 0.25
  window: [0, 1.0e-3]
  names: [a, b]
  block: {weight: 0, every: 2}
  optimizer: {name: adamw, learning_rate: 1.0e-4, betas: [0.9, 0.99], weight_decay: 0}
"""


def parse(tmp_path: Path, text: str) -> Section:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    section = parse_section(Section, "section", path)
    assert isinstance(section, Section)
    return section


KNOWN_OPTIMIZERS = "adamw, adamw_8bit, adam, sgd, rmsprop, lion, muon"


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        parse(tmp_path, text)
    return str(caught.value).replace(str(tmp_path) + "/", "").splitlines()


def test_zero_is_a_value_and_lists_become_tuples(tmp_path: Path) -> None:
    section = parse(tmp_path, GOOD)
    assert section.block is not None and section.block.weight == 0.0
    assert section.window == (0.0, 1.0e-3) and section.names == ("a", "b")


def test_null_means_a_feature_is_absent(tmp_path: Path) -> None:
    assert parse(tmp_path, GOOD.replace("{weight: 0, every: 2}", "null")).block is None


def test_an_unknown_key_is_named_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("{weight: 0, every: 2}", "{weigth: 0, every: 2}"))
    assert "params.yaml:6: section.block.weigth: unknown key; did you mean weight?" in found


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 3", "steps: 0").replace("share: 0.25", "share: 2").replace("names:", "nmaes:")
    found = mistakes(tmp_path, text)
    assert len(found) == 4
    assert {line.split(":")[1] for line in found} == {"1", "2", "3", "5"}


def test_a_number_in_quotes_says_how_to_write_it(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("learning_rate: 1.0e-4", "learning_rate: '1e-4'"))
    assert len(found) == 1 and found[0].startswith("params.yaml:7: section.optimizer.learning_rate")
    assert "write 1e-4 without quotes" in found[0]


def test_text_is_not_a_number_and_a_number_is_not_text(tmp_path: Path) -> None:
    assert "section.steps" in mistakes(tmp_path, GOOD.replace("steps: 3", 'steps: "3"'))[0]
    assert "section.names" in mistakes(tmp_path, GOOD.replace("[a, b]", "[1, b]"))[0]


def test_an_unknown_optimizer_names_the_known_ones(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("name: adamw", "name: adamx"))
    assert found == [f"params.yaml:7: section.optimizer.name: got 'adamx'; one of {KNOWN_OPTIMIZERS}."]


def test_a_block_that_does_not_say_which_one_it_is_names_those_there_are(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("name: adamw, ", ""))
    assert found == [f"params.yaml:7: section.optimizer.name: missing; one of {KNOWN_OPTIMIZERS}."]


def test_an_unknown_key_of_a_chosen_optimizer_names_the_keys_of_that_one(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("betas: [0.9, 0.99]", "betas: [0.9, 0.99], smoothing: 0.9"))
    assert found == [
        "params.yaml:7: section.optimizer.smoothing: unknown key; known here: name, learning_rate, betas, weight_decay."
    ]


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("  steps: 3\n", ""))
    assert found == ["params.yaml:1: section.steps: missing; state it (no value is hidden in the code)."]


def test_a_key_stated_twice_is_an_error(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace("  share: 0.25\n", "  share: 0.25\n  share: 0.5\n"))
    assert found == ["params.yaml:4: section.share is stated twice; keep one."]


@pytest.mark.parametrize("text", ["section: [", "", "- a\n- b\n", "section: {a: 1"])
def test_a_file_that_is_not_sections_is_one_clear_line(tmp_path: Path, text: str) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == 1 and "params.yaml" in found[0]


def test_a_missing_file_and_a_missing_section_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="project's root"):
        read_document(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text(GOOD)
    with pytest.raises(ParamsError, match="Did you mean section"):
        parse_section(Section, "sections", tmp_path / "params.yaml")


def test_params_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(tmp_path, GOOD).steps = 5  # type: ignore[misc]


def test_no_parameter_class_hides_a_value_in_the_code() -> None:
    import pipelines.params as module

    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, Params):
            assert all(field.is_required() for field in kind.model_fields.values()), kind
    assert Muon.model_fields["others"].is_required()


def test_a_stage_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ParamsError, match=r"no such stage module"):
        section_class("pipelines.generation.nothing", "train")
    with pytest.raises(ParamsError, match=r"no function nothing"):
        section_class("pipelines.stage", "nothing")


TRAINING = """\
section:
  seed: 0
  steps: 3
  batch_size: 24
  micro_batch: 12
  precision: fp32
  gradient_checkpointing: false
  compile: false
  max_grad_norm: 1.0
  ema: {decay: 0.9, warmup_steps: 1}
  optimizer: {name: adamw, learning_rate: 1.0e-4, betas: [0.9, 0.99], weight_decay: 0}
  schedule: {shape: constant, warmup_steps: 0}
  per_network: null
  stop_when: null
  log_every: 1
  save_every: 1
  validate_every: 1
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("micro_batch: 12", "micro_batch: 10", "batch_size 24 is not a multiple of micro_batch 10"),
        ("betas: [0.9, 0.99]", "betas: [0.9, 1.5]", "section.optimizer.betas.1: got 1.5: Input should be less than 1"),
        ("decay: 0.9", "decay: '9e-1'", "'9e-1' is text; write 9e-1 without quotes"),
    ],
)
def test_training_that_could_not_start_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TRAINING)
    parse_section(Training, "section", path)
    path.write_text(TRAINING.replace(old, new))
    with pytest.raises(ParamsError, match=rf"params.yaml:\d+: .*{re.escape(told)}"):
        parse_section(Training, "section", path)


def test_a_misspelt_section_is_told_once_by_the_name_that_stands_there(tmp_path: Path) -> None:
    text = Path("params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("latent_mae:", "latent_mea:", 1))
    (told,) = params.mistakes(tmp_path / "params.yaml", Path("dvc.yaml"))
    assert told.endswith("latent_mea: unknown section; did you mean latent_mae?")
    (tmp_path / "params.yaml").write_text(text.replace("latent_mae:", "tokens:", 1))
    unknown, missing = params.mistakes(tmp_path / "params.yaml", Path("dvc.yaml"))
    assert "tokens: unknown section; no stage" in unknown and "no section latent_mae" in missing
