"""Names on the model hub stand still: resolved from a cache and written back, or refused; never asked outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.document import load
from pipelines.hub import commit
from pipelines.params import Params, parse_section
from pipelines.revisions import settle
from pipelines.stage import StageError
from tests.models.hub_cache import COMMIT, offline, put


class Named(Params):
    """As the sections of stages name a network."""

    name: str
    revision: str | None
    subfolder: str | None


class Section(Params):
    """A stage's section."""

    steps: int
    pretrained: Named | None
    others: dict[str, Named]


TEXT = """\
# of the whole file
toy:
  steps: 010 # ten
  pretrained: {name: lab/video, revision: REVISION, subfolder: null} # the network
  others:
    first: {name: FOLDER, revision: null, subfolder: null}
    second:
      name: lab/video
      revision: main # a branch
      subfolder: null
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    put(tmp_path / "hub", "lab/video", tmp_path / "model")
    offline(tmp_path / "hub", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settled(text: str) -> tuple[list[str], str]:
    Path("params.yaml").write_text(text)
    said = settle(parse_section(Section, "toy"), "toy", commit)
    return said, Path("params.yaml").read_text()


def test_a_moving_name_is_resolved_and_written_back_with_comments_kept(here: Path) -> None:
    said, text = settled(TEXT.replace("REVISION", "null").replace("FOLDER", "model"))
    assert text == TEXT.replace("REVISION", COMMIT).replace("FOLDER", "model").replace(
        "revision: main", f"revision: {COMMIT}"
    )
    assert load(text)["toy"]["steps"] == 10
    first, second = said
    assert first.startswith(
        f"params.yaml:4: toy.pretrained.revision: null, the newest, of lab/video is commit {COMMIT}"
    )
    assert second.startswith("params.yaml:9: toy.others.second.revision: main of lab/video is commit")
    assert settled(text) == ([], text)  # it stands still now


@pytest.mark.parametrize("revision", ["v2", "refs/pr/3"])
def test_what_the_offline_cache_cannot_say_is_refused_and_nothing_is_written(here: Path, revision: str) -> None:
    before = TEXT.replace("REVISION", revision).replace("FOLDER", "model")
    with pytest.raises(StageError, match=r"params.yaml:4: toy.pretrained.revision: .* moves.*HF_HUB_OFFLINE is set"):
        settled(before)
    assert Path("params.yaml").read_text() == before


def test_a_name_that_is_neither_a_folder_nor_known_is_refused(here: Path) -> None:
    with pytest.raises(StageError, match="of lab/nothing moves, and which commit it is cannot be said"):
        settled(TEXT.replace("REVISION", COMMIT).replace("FOLDER", "lab/nothing"))
