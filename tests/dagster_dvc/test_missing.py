"""What the cache no longer holds: made again where a run can, else one line with file, line and remedy."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dagster_dvc import missing, status
from dagster_dvc.checks import remedy
from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Repro, Result
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, materialize

pytestmark = QUIET


def forget(root: Path, md5: str) -> None:
    """Delete one object from DVC's cache."""
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()


def recorded(root: Path, stage: str) -> str:
    """The hash of a stage's first output."""
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"][stage]["outs"][0]["md5"]


def repro(root: Path, stage: str) -> Result:
    return Repro(DvcProject(root), stage).result()


@pytest.fixture
def root(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced toy project, taken when its graph had been read before."""
    DvcProject(reproduced).manifest  # noqa: B018
    return Path(shutil.copytree(reproduced, tmp_path / "project"))


@pytest.fixture
def tracked(root: Path) -> Path:
    """The toy project with its source under `dvc add`."""
    toy.dvc(root, "add", "source/numbers.txt")
    return root


def lose_source(root: Path) -> str:
    """Delete the source and its cached object; returns its hash."""
    md5 = yaml.safe_load((root / "source/numbers.txt.dvc").read_text())["outs"][0]["md5"]
    forget(root, md5)
    (root / "source/numbers.txt").unlink()
    return md5


def test_an_output_that_the_cache_lost_is_said_and_made_again(root: Path) -> None:
    forget(root, recorded(root, "left"))
    (root / "work/left").unlink()
    [why] = status.stale(DvcProject(root))["left"]
    assert str(why) == "output: work/left is missing, and from DVC's cache too: only a run makes it again"
    assert remedy(DvcProject(root), DvcProject(root).stage("left")) == "dvc repro left"
    assert missing.lost(DvcProject(root), DvcProject(root).stages.values()) == []
    assert repro(root, "left").outcome == "executed"
    assert status.stale(DvcProject(root)) == {}


def test_a_folder_is_cached_only_with_every_file_in_it(root: Path) -> None:
    folder = recorded(root, "prepare")
    project = DvcProject(root)
    assert missing.in_cache(project, folder)
    assert remedy(project, project.stage("prepare")) == "dvc checkout prepare"
    member = project.hashes.of("work/numbers/all.txt")
    assert member is not None
    forget(root, member)
    assert not missing.in_cache(project, folder)
    shutil.rmtree(root / "work/numbers")
    assert repro(root, "prepare").outcome == "executed"


@pytest.mark.costly
def test_a_source_that_the_cache_lost_is_one_line_with_the_remedy(tracked: Path) -> None:
    md5 = lose_source(tracked)
    expected = (
        f"source/numbers.txt.dvc:2: source/numbers.txt is missing; DVC's cache does not hold {md5} either; "
        "dvc pull source/numbers.txt, or put the same file there"
    )
    assert missing.lost(DvcProject(tracked), DvcProject(tracked).stages.values()) == [expected]
    assert repro(tracked, "prepare").error == expected
    with dg.DagsterInstance.ephemeral() as instance:
        failed = materialize(tracked, instance, "prepare")
    [event] = failed.get_step_failure_events()
    assert expected in str(event.step_failure_data.error)
    assert toy.dvc(tracked, "checkout", "left", check=False).returncode == 0
    assert (tracked / "work/numbers/all.txt").is_file()


@pytest.mark.costly
def test_a_source_that_is_only_deleted_is_brought_back_from_the_cache(tracked: Path) -> None:
    (tracked / "source/numbers.txt").unlink()
    failed = repro(tracked, "prepare")
    assert failed.error.endswith("is missing; bring it back: dvc checkout source/numbers.txt")
    toy.dvc(tracked, "checkout", "source/numbers.txt")
    assert repro(tracked, "prepare").succeeded


def test_a_source_that_nobody_tracks_is_named_with_the_stage_that_reads_it(root: Path) -> None:
    (root / "source/numbers.txt").unlink()
    said = repro(root, "prepare").error
    assert said.startswith("dvc.yaml:3: stage 'prepare' reads source/numbers.txt, which is missing")


def test_an_input_that_another_stage_makes_names_that_stage(root: Path) -> None:
    (root / "work/left").unlink()
    said = repro(root, "train").error
    assert said.endswith("stage 'train' reads work/left, which is missing; make it again: dvc repro left")


@pytest.mark.costly
def test_a_frozen_stage_without_its_output_says_how_to_go_on(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right")
    (root / "work/right").unlink()
    assert repro(root, "right").error.endswith("bring it back: dvc checkout right")
    forget(root, recorded(root, "right"))
    said = repro(root, "right").error
    assert said.startswith("dvc.lock:") and "dvc pull right, or take 'frozen' from dvc.yaml:16" in said


@pytest.mark.parametrize(
    "entry", [{"relpath": "a"}, {"relpath": "../a", "md5": "0" * 32}, {"relpath": "a", "md5": "../x"}, 1]
)
def test_a_list_in_the_cache_that_no_dvc_wrote_leads_nowhere(root: Path, entry: object) -> None:
    name = "0" * 32 + ".dir"
    place = root / ".dvc/cache/files/md5" / name[:2] / name[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    for content in (json.dumps([entry]), "cut o"):
        place.write_text(content)
        assert not missing.in_cache(DvcProject(root), name) and missing.cached_files(DvcProject(root), name) == {}
