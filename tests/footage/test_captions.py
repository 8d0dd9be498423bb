"""Captions files: what is read, and what a mistake says."""

from pathlib import Path

import pytest

from pipelines.footage.captions import captions_from_file, sidecar_caption
from pipelines.stage import StageError

VIDEOS = ("a.mp4", "sub/b c.mp4")


def read(tmp_path: Path, name: str, text: str) -> dict[str, str]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return captions_from_file(tmp_path / name, VIDEOS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", 'a.mp4,"a cat, asleep"\nsub/b c.mp4,ein Kätzchen\n'),
        ("c.csv", '\ufefffile,caption\na.mp4,"a cat, asleep"\n\n./sub/b c.mp4,ein Kätzchen'),
        ("c.tsv", "filename\tcaption\na.mp4\ta cat, asleep\nsub/b c.mp4\tein  Kätzchen \n"),
        (
            "c.jsonl",
            '{"file": "a.mp4", "caption": "a cat, asleep"}\n{"file_name": "sub/b c.mp4", "text": "ein Kätzchen"}',
        ),
    ],
)
def test_every_format_gives_the_same_captions(tmp_path: Path, name: str, text: str) -> None:
    assert read(tmp_path, name, text) == {"a.mp4": "a cat, asleep", "sub/b c.mp4": "ein Kätzchen"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.xlsx", "", r"unknown caption format '.xlsx'; known: .csv, .tsv, .txt, .jsonl, .parquet"),
        ("c.csv", "a.mp4,a cat\nsub/b_c.mp4,a dog\n", r"c.csv:2: names sub/b_c.mp4.*did you mean sub/b c.mp4\?"),
        ("c.csv", "x\nq.mp4,1\nr.mp4,2", r"c.csv:1: filename and caption expected, 1 columns"),
        ("c.csv", "a.mp4,a cat, asleep\n", r"c.csv:1: .*3 columns found; put a caption with commas in \"quotes\""),
        ("c.tsv", "a.mp4,a cat\n", r"c.tsv:1: .*one tab"),
        ("c.csv", "a.mp4,one\na.mp4,two\n", r"c.csv:2: a.mp4 has two captions"),
        ("c.csv", 'a.mp4,"one\n', r"c.csv:1: "),
        ("c.jsonl", '{"file": "a.mp4"}', r"c.jsonl:1: is not"),
        ("c.jsonl", "[1]\n", r"c.jsonl:1: is not"),
        ("c.jsonl", "\n{oops", r"c.jsonl:2: is not"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_remedy(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(StageError, match=words) as caught:
        read(tmp_path, name, text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_captions_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such file"):
        captions_from_file(tmp_path / "c.csv", VIDEOS)
    (tmp_path / "c.csv").write_bytes(b"a.mp4,\xff\xfe")
    with pytest.raises(StageError, match="not UTF-8"):
        captions_from_file(tmp_path / "c.csv", VIDEOS)


def test_sidecars_are_read_with_white_space_folded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  a cat\n asleep\n")
    assert sidecar_caption(tmp_path / "a.mp4") == "a cat asleep"
    assert sidecar_caption(tmp_path / "b.mp4") == ""
