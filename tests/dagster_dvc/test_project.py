"""The graph: as DVC sees it, also when dvc.yaml is broken somewhere."""

import json
import sys
from pathlib import Path

import pytest

from dagster_dvc import resolved
from dagster_dvc.project import DvcProject, ProjectError
from tests import forked
from tests.dagster_dvc import toy


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in DvcProject(root).problems]


def test_the_edges_are_those_of_dvc(root: Path) -> None:
    lines = toy.dvc(root, "dag", "--dot").stdout.replace('"', "").splitlines()
    edges = {tuple(line.rstrip(";").split(" -> ")) for line in lines if "->" in line}
    project = DvcProject(root)
    assert edges == {(up, name) for name, before in project.upstream.items() for up in before}


def test_the_manifest_is_kept_until_a_file_it_was_read_from_changes(root: Path) -> None:
    first = DvcProject(root).manifest
    kept = root / ".dvc/tmp/dagster_dvc/manifest.json"
    written = kept.stat().st_mtime_ns
    assert DvcProject(root).manifest == first
    assert kept.stat().st_mtime_ns == written
    toy.edit(root, "params.yaml", "amount: 2", "amount: 4")
    assert DvcProject(root).stages["right"].params["params.yaml"]["right"]["amount"] == 4
    assert kept.stat().st_mtime_ns != written


def test_dvc_that_tests_share_answers_as_a_process_of_its_own(root: Path, tmp_path: Path) -> None:
    for place, status in ((root, 0), (tmp_path, 1)):
        own, shared = forked.in_its_own_process(place), resolved.asked(place)
        assert (shared.returncode, shared.stdout, shared.stderr) == (own.returncode, own.stdout, own.stderr)
        assert own.returncode == status and bool(own.stdout) != bool(own.stderr)
    assert len(json.loads(forked.in_its_own_process(root).stdout)["stages"]) == 5


def test_a_stage_added_to_dvc_yaml_appears(root: Path) -> None:
    with (root / "dvc.yaml").open("a") as stream:
        stream.write("  count: {cmd: wc -l dvc.yaml, deps: [work/scores], outs: [work/count]}\n")
    project = DvcProject(root)
    assert project.upstream["count"] == {"evaluate"}
    assert list(project.stages)[-1] == "count"


@pytest.mark.costly
def test_foreach_vars_and_interpolation_are_resolved_by_dvc(tmp_path: Path) -> None:
    text = """
        vars: [sizes.yaml]
        stages:
          scale:
            foreach: ${sizes}
            do: {cmd: "echo ${item} > ${item}.txt", outs: ["${item}.txt"]}
          join: {cmd: cat small.txt big.txt > all.txt, deps: [small.txt, big.txt], outs: [all.txt]}
        """
    root = toy.make(tmp_path, toy.textwrap.dedent(text))
    (root / "sizes.yaml").write_text("sizes: [small, big]\n")
    project = DvcProject(root)
    assert project.upstream["join"] == {"scale@small", "scale@big"}
    assert project.stages["scale@big"].group == "scale"
    assert project.stages["scale@big"].line == 4
    (root / "sizes.yaml").write_text("sizes: [small, big, huge]\n")
    assert "scale@huge" in DvcProject(root).stages


def test_selection_knows_names_patterns_groups_and_neighbours(root: Path) -> None:
    project = DvcProject(root)
    assert project.select(["group:sides"]) == ["left", "right"]
    assert project.select(["+left"]) == ["prepare", "left"]
    assert project.select(["left+"]) == ["left", "train", "evaluate"]
    assert project.select(["*"], exclude=["train+"]) == ["prepare", "left", "right"]
    with pytest.raises(ProjectError, match="did you mean train"):
        project.select(["trian"])


@pytest.mark.costly
def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    root = toy.make(tmp_path, "stages:\n  prepare:\n    cmd: [unclosed\n  left: x\n")
    with pytest.raises(ProjectError, match=r"dvc\.yaml:\d+: "):
        _ = DvcProject(root).stages


@pytest.mark.costly
def test_broken_yaml_shows_the_last_graph_that_could_be_read(root: Path) -> None:
    before = list(DvcProject(root).stages)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text() + "  broken: [\n")
    assert list(DvcProject(root).stages) == before
    assert "showing the last graph" in problems(root)[0]
    assert problems(root)[0].startswith("dvc.yaml:")


def test_one_invalid_stage_leaves_the_others(root: Path) -> None:
    with (root / "dvc.yaml").open("a") as stream:
        stream.write("  wrong:\n    cmd: true\n    outputs: [x]\n")
    assert "wrong" not in DvcProject(root).stages
    assert "train" in DvcProject(root).stages
    line = (root / "dvc.yaml").read_text().splitlines().index("  wrong:") + 1
    [complaint] = problems(root)
    assert complaint.startswith("dvc.yaml:")
    assert "wrong" in complaint
    assert line <= int(complaint.split(":")[1]) <= line + 2


def test_a_cycle_takes_out_its_own_stages_only(root: Path) -> None:
    toy.edit(
        root,
        "dvc.yaml",
        "deps: [add.py, work/numbers]\n    params: [left]",
        "deps: [add.py, work/scores]\n    params: [left]",
    )
    assert list(DvcProject(root).stages) == ["prepare", "right"]
    assert all("cycle through evaluate, left, train" in complaint for complaint in problems(root))
    assert len(problems(root)) == 3


def test_a_folder_without_dvc_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="dvc init --no-scm"):
        _ = DvcProject(tmp_path).stages


def test_reading_a_project_imports_neither_dvc_nor_dagster(root: Path) -> None:
    code = (
        "import sys; from dagster_dvc import lineage, runner, status; from dagster_dvc.project import DvcProject;"
        f"status.stale(DvcProject({str(root)!r})); print([m for m in ('dvc', 'dagster') if m in sys.modules])"
    )
    done = toy.subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=toy.REPO, check=True)
    assert done.stdout.strip() == "[]"
