"""Files that DVC cannot read: named with their line, never remembered, and never a reason to say that all is well."""

import shutil
from pathlib import Path

import pytest

from dagster_dvc.doctor import complaints
from dagster_dvc.project import DvcProject, ProjectError
from tests.dagster_dvc import toy

BROKEN = {
    "left: {amount: 1}\nright: [\ntrain: 1\n": "params.yaml:2: never ended",
    "left: 1\nright: 2\nleft: 3\n": "params.yaml:3: found duplicate key",
    "left: 1\nright:\n\t- 2\n": "params.yaml:3: found character '\\t'",
    "left: 1\n<<<<<<< HEAD\nright: 1\n=======\nright: 2\n>>>>>>> other\n": "params.yaml:2: a merge conflict",
    "left: 1\nright: \udcff\n": "params.yaml:2: not UTF-8",
    "- left\n- right\n": "params.yaml:1: expected a dictionary",
    "left: 1\nright:\n  days: [one,\n    2026-01-01]\n": "params.yaml:4: right.days.1 is read as a date",
}
GOOD = toy.FILES["params.yaml"]


def write(root: Path, file: str, text: str) -> None:
    (root / file).write_bytes(toy.textwrap.dedent(text).encode("utf-8", "surrogateescape"))


@pytest.mark.costly
@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_params_file_is_named_with_its_line_and_forgotten_once_it_is_mended(root: Path, text: str) -> None:
    shutil.rmtree(root / ".dvc/tmp/dagster_dvc", ignore_errors=True)
    write(root, "params.yaml", text)
    for _ in range(2):
        with pytest.raises(ProjectError) as caught:
            _ = DvcProject(root).stages
        assert str(caught.value).startswith(BROKEN[text])
    write(root, "params.yaml", GOOD)
    assert len(DvcProject(root).stages) == 5
    assert DvcProject(root).problems == []


@pytest.mark.parametrize("text", BROKEN)
def test_meanwhile_the_last_graph_is_shown_with_the_complaint(root: Path, text: str) -> None:
    assert len(DvcProject(root).stages) == 5
    write(root, "params.yaml", text)
    for _ in range(2):
        project = DvcProject(root)
        assert len(project.stages) == 5
        [said] = complaints(project)
        assert said.startswith(BROKEN[text]) and said.endswith("; showing the last graph that could be read")
    write(root, "params.yaml", GOOD)
    assert DvcProject(root).problems == []


@pytest.mark.parametrize(
    ("file", "broken", "line", "good"),
    [
        ("other.yaml", "a:\n  b: [1,\n", 2, "a: 1\n"),
        ("other.json", '{"a":\n 1\n "b": 2}', 3, '{"a": 1}'),
        ("other.toml", "b = 1\na = \n", 2, "a = 1\n"),
        ("other.py", "b = 1\na = (\n", 2, "a = 1\n"),
    ],
)
def test_a_broken_file_of_one_stage_takes_out_that_stage_until_it_is_mended(
    root: Path, file: str, broken: str, line: int, good: str
) -> None:
    toy.edit(root, "dvc.yaml", "params: [left]", f"params: [left, {{{file}: [a]}}]")
    write(root, file, broken)
    assert list(DvcProject(root).stages) == ["prepare", "right", "train", "evaluate"]
    [problem] = DvcProject(root).problems
    assert str(problem).startswith(f"{file}:{line}: stage 'left': ")
    write(root, file, good)
    assert list(DvcProject(root).stages) == ["prepare", "left", "right", "train", "evaluate"]


@pytest.mark.costly
def test_values_that_only_interpolation_reads_are_watched_too(tmp_path: Path) -> None:
    stages = """
        vars: [{kind: x}, more.yaml]
        stages:
          one: {cmd: "echo ${word} > one", outs: [one]}
          two: {wdir: sub, vars: [inner.yaml], cmd: "echo ${inner} > two", outs: [two]}
          three: {vars: [own.yaml], cmd: "echo ${own} ${many} > three", outs: [three]}
        """
    root = toy.make(tmp_path, toy.textwrap.dedent(stages), params__yaml="word: a\n", more__yaml="many: a\n")
    (root / "sub").mkdir()
    write(root, "own.yaml", "own: a\n")
    write(root, "sub/inner.yaml", "inner: a\n")
    assert DvcProject(root).problems == []
    edits = {"params.yaml": ("word", "one"), "sub/inner.yaml": ("inner", "two"), "own.yaml": ("own", "three")}
    for file, (key, name) in {**edits, "more.yaml": ("many", "three")}.items():
        write(root, file, f"{key}: edited\n")
        assert "edited" in DvcProject(root).stages[name].command


@pytest.mark.costly
def test_one_broken_pipeline_of_two_leaves_the_other_and_is_not_remembered(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    (root / "sub").mkdir()
    write(root, "sub/dvc.yaml", "stages: {echo: {cmd: 'echo ${word} > out', outs: [out]}}\n")
    write(root, "sub/params.yaml", "other: 1\nword: [\n")
    for _ in range(2):
        assert len(DvcProject(root).stages) == 5
        assert [str(found).split(": ")[0] for found in DvcProject(root).problems] == ["sub/params.yaml:2"]
    write(root, "sub/params.yaml", "word: a\n")
    assert len(DvcProject(root).stages) == 6


@pytest.mark.costly
def test_an_output_that_is_ignored_takes_out_its_stage_from_that_edit_until_the_next(root: Path) -> None:
    assert DvcProject(root).problems == []
    before = (root / ".dvcignore").read_text()
    (root / ".dvcignore").write_text(f"{before}work/model\n")
    [problem] = DvcProject(root).problems
    assert "stage 'train': " in str(problem) and f"is ignored by .dvcignore:{before.count(chr(10)) + 1}" in str(problem)
    (root / ".dvcignore").write_text(before)
    (root / "work/.dvcignore").write_text("model\n")
    assert [found.stage for found in DvcProject(root).problems] == ["train"]
    (root / "work/.dvcignore").unlink()
    assert DvcProject(root).problems == [] and len(DvcProject(root).stages) == 5
