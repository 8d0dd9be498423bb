"""One reader of YAML: what DVC reads, line by line; edits keep comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from dagster_dvc import yaml12
from pipelines.document import ParamsError, Whole, load, read_document
from pipelines.editing import edited

ROOT = Path(__file__).parents[1]


def by_dvc(text: str) -> Any:
    from dvc.utils.serialize import parse_yaml

    return parse_yaml(text, "params.yaml")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[("on", "on"), ("no", "no"), ("y", "y"), ("yes", "yes"), ("true", True), ("null", None), ("~", None)],
        *[("010", 10), ("0o17", 15), ("0x1F", 31), ("1:30", "1:30"), ("13:20", "13:20"), ("1_000", 1000)],
        *[("1e-4", 1e-4), ("5e-05", 5e-5), ("1.0e-4", 1e-4), (".5", 0.5), ("1.", 1.0), ("'1e-4'", "1e-4")],
    ],
)
def test_a_scalar_is_what_dvc_makes_of_it(written: str, value: object) -> None:
    text = f"a: {written}\n"
    for found in (load(text)["a"], yaml12.load(text)["a"], by_dvc(text)["a"]):
        assert (type(found), found) == (type(value), value)


@given(st.text(alphabet="0123456789eE.+-_:xoabnrtuyfls~", min_size=1, max_size=8))
def test_any_short_scalar_is_what_dvc_makes_of_it(scalar: str) -> None:
    text = f"a: {scalar}\n"
    try:
        expected = by_dvc(text)
    except Exception:
        with pytest.raises(Exception):  # noqa: B017  neither reads it
            load(text)
        return
    assert repr(load(text)) == repr(expected) == repr(yaml12.load(text) or {})


@pytest.mark.parametrize(
    "file", ["params.yaml", "dvc.yaml", *(f"profiles/launch/{name}.yaml" for name in ("cpu", "fsdp"))]
)
def test_our_own_files_are_read_as_dvc_reads_them(file: str) -> None:
    text = (ROOT / file).read_text()
    assert load(text) == by_dvc(text)


def test_no_other_reader_is_left() -> None:
    """PyYAML reads what accelerate and Dagster read with it, and dvc.lock with YAML 1.2's scalars, for its speed."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("pipelines", "assets", "dagster_dvc", "dagster_project")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\byaml\.(safe_)?load\(", path.read_text())
    }
    others = {"pipelines/launch.py", "dagster_project/home.py"}
    assert found <= others | {"dagster_dvc/lock_file.py", "dagster_dvc/lineage.py"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\nb: 2\n", r"params.yaml:2: not readable as YAML"),
        ("a: 1\nb: {c: 1, c: 2}\n", r"params.yaml:2: b.c is stated twice; keep one."),
        ("a: 2026-13-45\n", r"params.yaml: not readable as YAML: "),
        ("- a\n", "expected sections"),
        ("", "expected sections"),
        ("a: 1\n---\nb: 1\n", r"params.yaml:2: not readable as YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=told) as error:
        read_document(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ParamsError, match="not readable as YAML: 'utf-8' codec"):
        read_document(tmp_path / "params.yaml")


def test_values_that_were_read_belong_to_who_read_them(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: {b: [1]}\n")
    read_document(tmp_path / "params.yaml")[0]["a"]["b"].append(2)
    assert read_document(tmp_path / "params.yaml")[0] == {"a": {"b": [1]}}


def test_an_edit_changes_its_value_and_nothing_else() -> None:
    text = (ROOT / "params.yaml").read_text()
    assert edited(text, {}) == text
    source = {"source": {"rendered": {"num_clips": 7}}}
    lines = [pair for pair in zip(text.splitlines(), edited(text, {"raw_video": source}).splitlines(), strict=True)]
    ((before, after),) = [pair for pair in lines if pair[0] != pair[1]]
    assert re.sub(r"\d+ +#", "7 #", before) == re.sub(r"7 +#", "7 #", after)


def test_new_blocks_numbers_and_nulls_are_written_so_that_every_yaml_reads_them() -> None:
    text = "# head\na: {b: 1}  # why\nc: null # or a name\n"
    made = edited(text, {"a": Whole(d=1e-09, e=[None, "on"]), "c": {"x": 3e20}})
    assert made.startswith("# head\n") and "# why" in made and "# or a name" in made
    assert load(made) == {"a": {"d": 1e-09, "e": [None, "on"]}, "c": {"x": 3e20}}
    import yaml

    assert yaml.safe_load(made)["a"]["d"] == 1e-09


PLAIN = """010 0o10 0x10 0b1 +1 1_000 1e-4 5e-05 1.0e-9 .5 1. .nan .inf -.inf 13:20 1:30:00 2026-11-28
on off yes no True true TRUE ~ null Null ''"""


@pytest.mark.parametrize("word", PLAIN.split())
def test_a_plain_word_means_the_same_to_libyaml_and_to_the_parser_in_python(word: str) -> None:
    quick, slow = (YAML(typ="safe", pure=pure).load(f"a: {word}\nb:\n- {word}\n") for pure in (False, True))
    assert repr(quick) == repr(slow)
