"""dvc.lock: numbers and words as DVC wrote them, code versions, damaged files."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagster_dvc.lock import KEPT, read_lock
from dagster_dvc.lock_file import Yaml12
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.versions import code_version, lock_code_version
from tests.dagster_dvc import toy

SCALARS = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.booleans(),
    st.none(),
    st.sampled_from(["on", "off", "yes", "no", "1:30", "1e", "010", "2026-01-31", "~x"]),
)


@given(st.dictionaries(st.text("abc", min_size=1), SCALARS, min_size=1))
def test_what_dvc_writes_is_read_back(values: dict[str, object]) -> None:
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    assert yaml.load(stream.getvalue(), Loader=Yaml12) == values


def test_code_versions_from_disk_and_from_the_lock_agree_after_a_run(root: Path) -> None:
    project = DvcProject(root)
    lock = read_lock(project)
    for name, stage in project.stages.items():
        assert code_version(project, stage) == lock_code_version(project, stage, lock[name])


def test_meta_and_desc_are_no_part_of_a_code_version(root: Path) -> None:
    before = {name: code_version(DvcProject(root), stage) for name, stage in DvcProject(root).stages.items()}
    toy.edit(root, "dvc.yaml", "desc: Sums both sides.", "desc: Something else.")
    toy.edit(root, "dvc.yaml", "group: sides", "group: wings")
    project = DvcProject(root)
    assert before == {name: code_version(project, stage) for name, stage in project.stages.items()}
    assert toy.dvc(root, "status", "--json").stdout.strip() == "{}"


def test_a_merge_conflict_is_named_with_its_line(root: Path) -> None:
    lock = root / "dvc.lock"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([*lines[:4], "<<<<<<< ours", *lines[4:6], "=======", *lines[6:], ">>>>>>> theirs"]))
    with pytest.raises(ProjectError, match=r"dvc\.lock:5: a merge conflict"):
        read_lock(DvcProject(root))


def test_a_damaged_lock_does_not_hide_the_graph(root: Path) -> None:
    (root / "dvc.lock").write_text("stages: [\n")
    (root / "dvc.yaml").touch()
    assert "train" in DvcProject(root).stages
    with pytest.raises(ProjectError, match=r"dvc\.lock:\d+"):
        read_lock(DvcProject(root))


def test_without_a_lock_nothing_is_recorded(root: Path) -> None:
    (root / "dvc.lock").unlink()
    assert read_lock(DvcProject(root)) == {}


def test_the_values_of_a_lock_file_are_kept_and_those_of_another_text_are_not_taken_for_them(root: Path) -> None:
    before = read_lock(DvcProject(root))
    kept = root / ".dvc/tmp/dagster_dvc" / KEPT
    changed = json.loads(kept.read_text())
    changed["stages"]["dvc.yaml"]["train"]["cmd"] = "as it was kept"
    kept.write_text(json.dumps(changed))
    assert read_lock(DvcProject(root))["train"].cmd == "as it was kept"  # no YAML was read
    toy.edit(root, "dvc.lock", "schema: '2.0'", "# another text\nschema: '2.0'")
    assert read_lock(DvcProject(root)) == before
    kept.write_text("{")
    assert read_lock(DvcProject(root)) == before


@pytest.mark.parametrize("value", ["{1: a}", ".nan", ".inf", "!!binary aGVsbG8=", "[1, 1.0, true, ~, 'on']", "{}"])
def test_values_that_json_would_change_are_read_from_the_lock_file_each_time(root: Path, value: str) -> None:
    toy.edit(root, "dvc.lock", "        train:\n", f"        odd: {value}\n        train:\n")
    first, again = (read_lock(DvcProject(root))["train"].params["params.yaml"] for _ in range(2))
    assert "odd" in first and repr(first) == repr(again)


def test_a_lock_file_that_is_no_utf_8_is_one_line_with_its_file(root: Path) -> None:
    (root / "dvc.lock").write_bytes(b"schema: '2.0'\nstages: {a: \xff}\n")
    with pytest.raises(ProjectError, match=r"^dvc\.lock:\d+: .*restore it from git") as caught:
        read_lock(DvcProject(root))
    assert "\n" not in str(caught.value)
