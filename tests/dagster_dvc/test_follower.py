"""An idle tick reads nothing: counted by the files that are opened and the folders that are listed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc import marks
from dagster_dvc.follower import Fingerprint, Follower
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET

pytestmark = QUIET
WATCHING: list[list[tuple[str, str]]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if WATCHING and event in {"open", "os.scandir", "os.listdir", "subprocess.Popen"}:
        WATCHING[-1].append((event, str(arguments[0])))


sys.addaudithook(_hear)


@contextmanager
def heard(root: Path) -> Iterator[list[tuple[str, str]]]:
    """Every file of the project that is opened meanwhile, every folder listed, every process started."""
    seen: list[tuple[str, str]] = []
    WATCHING.append(seen)
    try:
        yield seen
    finally:
        WATCHING.remove(seen)
        seen[:] = [(event, what) for event, what in seen if event == "subprocess.Popen" or what.startswith(str(root))]


def settled(follower: Follower, instance: dg.DagsterInstance, cursor: str | None = None) -> str | None:
    """Tick until nothing is new; returns the cursor."""
    said = ""
    while said != "nothing new":
        said, cursor = follower.tick(lambda: instance, cursor)
        follower.wait()
    return cursor


@pytest.mark.parametrize("clips", [3, 3000])
def test_an_idle_tick_opens_dvc_lock_and_nothing_else(root: Path, clips: int) -> None:
    for number in range(clips):
        (root / f"work/numbers/{number}.mp4").write_text(str(number))
    os.utime(root / "dvc.lock", (1, 1))
    follower, fingerprint = Follower(root), Fingerprint(root)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = settled(follower, instance)
        first = fingerprint.now()
        with heard(root) as seen:
            assert follower.tick(lambda: instance, cursor) == ("nothing new", cursor)
            assert fingerprint.now() == first
    assert set(seen) == {("open", str(root / "dvc.lock")), ("os.scandir", str(root))}


def test_what_many_files_hide_is_told_by_the_next_look(root: Path) -> None:
    for number in range(marks.MOST_FILES + 1):
        (root / f"work/numbers/{number}.mp4").write_text("a")
    os.utime(root / "dvc.lock", (1, 1))
    follower = Follower(root)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = settled(follower, instance)
        (root / "work/numbers/new.mp4").write_text("a")
        assert follower.tick(lambda: instance, cursor)[0] == "looking at what changed on disk"
        follower.wait()
        cursor = settled(follower, instance, cursor)
        toy.edit(root, "work/numbers/1.mp4", "a", "b")
        assert follower.tick(lambda: instance, cursor)[0] == "nothing new"


@pytest.mark.parametrize("path", ["work/model", "work/numbers/all.txt", "source/numbers.txt", "metrics/train.json"])
def test_an_edit_of_any_of_few_files_is_noticed(root: Path, path: str) -> None:
    os.utime(root / "dvc.lock", (1, 1))
    follower = Follower(root)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = settled(follower, instance)
        text = (root / path).read_text()
        (root / path).unlink()
        (root / path).write_text(text + "edited")
        assert follower.tick(lambda: instance, cursor)[0] == "looking at what changed on disk"
        follower.wait()
        assert follower.tick(lambda: instance, cursor)[0].startswith("reported 1 ")
