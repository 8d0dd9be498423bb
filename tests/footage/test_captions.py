"""Captions beside videos and in tables, as people's programs save them: what is read, and what a mistake says."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.limits import VideoError
from pipelines.footage.captions import Table, Told, captions_from_files, sidecar_told
from pipelines.stage import StageError

VIDEOS = ("a.mp4", "sub/b c.mp4")
WANTED = {"a.mp4": "a cat, asleep", "sub/b c.mp4": "ein Kätzchen"}


def table(folder: Path, name: str, content: str | bytes, videos: tuple[str, ...] = VIDEOS) -> Table:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return captions_from_files([path], folder, videos)[0]


def captions(found: Table) -> dict[str, str]:
    return {name: one.caption for name, many in found.told.items() for one in many if one.refusal is None}


def only(found: Table, name: str = "a.mp4") -> Told:
    (told,) = found.of(name)
    return told


def reasons(found: Table) -> dict[str, str]:
    return {name: one.refusal.reason for name, many in found.told.items() for one in many if one.refusal}


# ---- forms --------------------------------------------------------------------------------------------------------

PLAIN = 'a.mp4,"a cat, asleep"\nsub/b c.mp4,ein Kätzchen\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", PLAIN),
        ("c.csv", "\ufefffile,caption\n" + PLAIN.replace("sub", "./sub").replace("\nsub", "\n\nsub")),
        ("c.csv", 'file_name,duration,text\na.mp4,3.2,"a cat, asleep"\nsub/b c.mp4,1.0,ein Kätzchen'),
        ("c.csv", 'caption,media_path\n"a cat, asleep",a.mp4\nein Kätzchen,sub/b c.mp4'),
        ("c.csv", "sep=;\nfile;caption\na.mp4;a cat, asleep\nsub/b c.mp4;ein Kätzchen"),
        ("c.csv", "File Name;Caption\na.mp4;a cat, asleep\nsub\\b c.mp4;ein Kätzchen"),
        ("c.csv", "a.mp4;a cat, asleep\nsub/b c.mp4;ein Kätzchen\n"),
        ("c.csv", 'file,caption,,\na.mp4,"a cat, asleep",,\nsub/b c.mp4,ein Kätzchen,,\n,,,\n'),
        ("c.csv", PLAIN.replace("\n", "\r")),
        ("c.tsv", "filename\tcaption\na.mp4\ta cat, asleep\nsub/b c.mp4\tein  Kätzchen \n"),
        ("c.txt", "a.mp4\ta cat, asleep\nsub/b c.mp4\tein Kätzchen"),
        (
            "c.jsonl",
            '{"file": "a.mp4", "caption": "a cat, asleep"}\n\n{"file_name": "sub/b c.mp4", "text": "ein Kätzchen"}',
        ),
        (
            "c.jsonl",
            '{"video_path": "a.mp4", "caption": "a cat, asleep"}\n{"video_path": "sub/b c", "caption": "ein Kätzchen"}',
        ),
        ("c.json", json.dumps([{"caption": text, "media_path": name} for name, text in WANTED.items()])),
        ("c.json", json.dumps({"data": [{"caption": text, "path": name} for name, text in WANTED.items()]})),
        ("c.json", '{"a.mp4": "a cat, asleep", "sub/b c.mp4": {"caption": "ein Kätzchen"}}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_form_and_encoding_gives_the_same_captions(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    """``utf-16`` and ``utf-32`` with their mark, as Excel's `Unicode text` and PowerShell's `>` write it."""
    found = table(tmp_path, name, text.removeprefix("\ufeff").encode(encoding))
    assert captions(found) == WANTED and not found.bad and not found.elsewhere


def test_parquet_is_read_by_its_columns_and_null_is_no_text(tmp_path: Path) -> None:
    rows = {"video": list(VIDEOS), "caption": ["a cat, asleep", None], "motion score": [1.5, float("nan")]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    (found,) = captions_from_files([tmp_path / "m.parquet"], tmp_path, VIDEOS)
    assert only(found).metadata == {"motion score": 1.5} and only(found).caption == "a cat, asleep"
    assert reasons(found) == {"sub/b c.mp4": "no_caption"}


LINE = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n\r\t\x0b\x0c\x85\u2028,;"$'), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(LINE.filter(str.strip), LINE.filter(str.strip))
def test_any_text_comes_through_every_form_as_one_line(
    tmp_path_factory: pytest.TempPathFactory, one: str, two: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    wanted = {name: " ".join(text.replace("\ufeff", "").split()) for name, text in zip(VIDEOS, (one, two), strict=True)}
    rows = [dict(zip(("file", "caption"), row, strict=True)) for row in zip(VIDEOS, (one, two), strict=True)]
    sheet = io.StringIO(newline="")
    writer = csv.DictWriter(sheet, ("file", "caption"))
    writer.writeheader()
    writer.writerows(rows)
    forms = {
        "c.csv": sheet.getvalue(),
        "c.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "c.json": json.dumps(rows),
    }
    for name, content in forms.items():
        assert captions(table(folder, name, content)) == wanted


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_break_in_quotes_is_a_space_and_lines_are_still_counted_right(tmp_path: Path, end: str) -> None:
    text = end.join(["file,caption", 'a.mp4,"two', 'lines"', "sub/b c.mp4,one,too many", ""])
    found = table(tmp_path, "c.csv", text)
    assert captions(found) == {"a.mp4": "two lines"}
    assert list(found.bad) == [4] and found.bad[4].reason == "bad_row" and 'in "quotes"' in str(found.bad[4])


def test_half_a_surrogate_pair_becomes_text_that_can_be_stored(tmp_path: Path) -> None:
    found = table(tmp_path, "c.jsonl", '{"file": "a.mp4", "caption": "a \\ud83d cat\\u0000 \\ud83d\\ude00"}')
    assert only(found).caption == "a \ufffd cat 😀"
    only(found).caption.encode()


@pytest.mark.parametrize("text", ["None", "NA", "null", "nan", "007", "1e3", "true"])
def test_words_that_look_like_values_stay_text(tmp_path: Path, text: str) -> None:
    assert only(table(tmp_path, "c.csv", f"file,caption,id\na.mp4,{text},{text}")).caption == text
    found = table(tmp_path, "c.csv", f"file,caption,take\na.mp4,{text},{text}")
    assert only(found).metadata == {"take": text}
    assert only(table(tmp_path, "c.jsonl", json.dumps({"file": "a.mp4", "caption": text}))).caption == text


def test_a_null_caption_is_a_row_of_its_own(tmp_path: Path) -> None:
    found = table(tmp_path, "c.jsonl", '{"file": "a.mp4", "caption": null}\n{"file": "sub/b c.mp4", "caption": 7}')
    assert reasons(found) == {"a.mp4": "no_caption", "sub/b c.mp4": "bad_caption"}
    assert "c.jsonl:1: caption is null" in str(only(found).refusal)


# ---- columns ------------------------------------------------------------------------------------------------------


def test_further_columns_are_kept_as_metadata(tmp_path: Path) -> None:
    text = "video,caption,aesthetic score,camera motion,source URL,licence,,Unnamed: 0\n"
    found = table(tmp_path, "c.csv", text + "a.mp4,a cat,5.1,pan_left,https://x/y,CC-BY,z,0\n")
    metadata = {"aesthetic score": "5.1", "camera motion": "pan_left", "source URL": "https://x/y", "licence": "CC-BY"}
    assert only(found).metadata == metadata
    row = {"path": "a.mp4", "text": "a cat", "fps": 24.0, "tags": ["a", "b"], "none": None, "more": {"k": 1, "n": None}}
    assert only(table(tmp_path, "c.json", json.dumps([row]))).metadata == {
        "fps": 24.0,
        "tags": ["a", "b"],
        "more": {"k": 1},
    }


def test_a_table_without_a_caption_column_still_tells_the_rest(tmp_path: Path) -> None:
    found = table(tmp_path, "c.csv", "file_name,label\na.mp4,cat\n")
    assert reasons(found) == {"a.mp4": "no_caption"} and only(found).metadata == {"label": "cat"}


URL = "https://www.youtube.com/watch?v=--MWDCsu"
PANDA = (
    "videoID,url,timestamp,caption,matching_score\n"
    f"--MWDCsu,{URL},\"[['0:00:05.005', '0:00:10.010'], ['0:01:00.000', '0:01:02.500']]\","
    """"['A man, ""waving"".', ""It's a dog.""]","[0.46, 0.5]"\n"""
)
KOALA = (
    "videoID,timestamp,caption,clarity_score\n"
    "--MWDCsu,\"['0:00:05.005', '0:00:10.010']\",A man.,0.9\n"
    "--MWDCsu,\"['0:01:00.000', '0:01:02.500']\",A dog.,0.8\n"
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (PANDA, [('A man, "waving".', {"matching_score": 0.46}), ("It's a dog.", {"matching_score": 0.5})]),
        (KOALA, [("A man.", {"clarity_score": "0.9"}), ("A dog.", {"clarity_score": "0.8"})]),
        (
            "YoutubeID,Start_timestamp,End_timestamp,Caption,UMT_Score\n"
            "--MWDCsu,00:00:05.005,00:00:10.010,A man.,0.4\n--MWDCsu,00:01:00.000,00:01:02.500,A dog.,0.3\n",
            [("A man.", {"UMT_Score": "0.4"}), ("A dog.", {"UMT_Score": "0.3"})],
        ),
        (
            "path,text,start,end\n--MWDCsu.mp4,A man.,5.005,10.01\n--MWDCsu.mp4,A dog.,60,62.5\n",
            [("A man.", {}), ("A dog.", {})],
        ),
        (
            "video,timestamp,caption\n"
            '--MWDCsu,"[0:00:05.005, 0:00:10.010]",A man.\n--MWDCsu,"(00:01:00, 00:01:02.5)",A dog.\n',
            [("A man.", {}), ("A dog.", {})],
        ),
        (
            "video,segment,caption\n--MWDCsu,0:00:05.005 - 0:00:10.010,A man.\n--MWDCsu,01:00 --> 01:02.5,A dog.\n",
            [("A man.", {}), ("A dog.", {})],
        ),
        (
            "video,start,duration,caption\n--MWDCsu,5.005,5.005,A man.\n--MWDCsu,1:00,2.5,A dog.\n",
            [("A man.", {}), ("A dog.", {})],
        ),
        (
            "video,start_frame,end_frame,fps,caption\n--MWDCsu,1001,2002,200,A man.\n--MWDCsu,1500,1562.5,25,A dog.\n",
            [("A man.", {"fps": "200"}), ("A dog.", {"fps": "25"})],
        ),
    ],
)
def test_time_stamps_are_cuts_with_captions_of_their_own(tmp_path: Path, text: str, wanted: list[Any]) -> None:
    found = table(tmp_path, "c.csv", text, ("--MWDCsu.mp4",)).of("--MWDCsu.mp4")
    assert [one.span for one in found] == [(5.005, 10.01), (60.0, 62.5)]
    shown = [(one.caption, {k: v for k, v in one.metadata.items() if k != "url"}) for one in found]
    assert shown == wanted


@pytest.mark.parametrize("times", ["5,4", "x,7", "-1,3", "nan,3", "1:2:x,9"])
def test_times_that_are_none_are_a_bad_row(tmp_path: Path, times: str) -> None:
    found = table(tmp_path, "c.csv", f"path,text,start,end\na.mp4,A man.,{times}\n")
    assert reasons(found) == {"a.mp4": "bad_row"}


def test_a_cut_told_in_frames_without_a_rate_names_what_is_missing(tmp_path: Path) -> None:
    found = table(tmp_path, "c.csv", "path,text,start_frame,end_frame\na.mp4,A man.,30,60\n")
    assert reasons(found) == {"a.mp4": "bad_row"} and "no column fps" in str(only(found).refusal)


def test_columns_of_files_by_huggingface_name_the_video_and_what_belongs_to_it(tmp_path: Path) -> None:
    text = "caption,clip_file_name,mask_file_name,id\na cat,a.mp4,b.mp4,7\n"
    found = table(tmp_path, "c.csv", text, ("a.mp4", "b.mp4"))
    assert only(found).caption == "a cat" and found.companions == {"b.mp4": "mask_file_name"}


# ---- names --------------------------------------------------------------------------------------------------------


def test_names_may_be_relative_to_the_folder_or_the_table_or_absolute_within(tmp_path: Path) -> None:
    root = tmp_path / "data/videos"
    root.mkdir(parents=True)
    rows = [
        ("videos/a.mp4", "one"),
        (str(root / "sub/b.mp4"), "two"),
        ("c.mp4", "three"),
        (f"file://{root}/d%20d.mp4", "four"),
    ]
    text = "".join(json.dumps({"media_path": name, "caption": caption}) + "\n" for name, caption in rows)
    (tmp_path / "data/set.jsonl").write_text(text)
    (found,) = captions_from_files([tmp_path / "data/set.jsonl"], root, ["a.mp4", "sub/b.mp4", "c.mp4", "d d.mp4"])
    assert captions(found) == {"a.mp4": "one", "sub/b.mp4": "two", "c.mp4": "three", "d d.mp4": "four"}


@pytest.mark.parametrize("lead", ["/home/someone/set", "D:\\set", "exports/2024"])
def test_a_table_written_on_another_machine_is_read_by_what_its_names_do_not_share(tmp_path: Path, lead: str) -> None:
    text = f"path,text\n{lead}/x/1.mp4,one\n{lead}/y/1.mp4,two\n{lead}/y/2.mp4,gone\n"
    found = table(tmp_path, "c.csv", text, ("x/1.mp4", "y/1.mp4"))
    assert captions(found) == {"x/1.mp4": "one", "y/1.mp4": "two"} and found.elsewhere == 1


def test_a_video_of_another_folder_is_never_taken_for_one_of_the_same_name(tmp_path: Path) -> None:
    found = table(tmp_path, "c.csv", "path,text\nx/1.mp4,wrong\ny/1.mp4,right\n1.mp4,wrong too\n", ("y/1.mp4",))
    assert captions(found) == {"y/1.mp4": "right"} and found.elsewhere == 2


def test_bare_names_ids_capitals_and_letters_taken_apart_find_their_one_file(tmp_path: Path) -> None:
    videos = ("p0/clip_12.5_17.0.mp4", "IMG_1.MP4", "cafe\u0301.mp4", "twice/z.mp4", "again/z.mp4")
    text = "file,caption\nclip_12.5_17.0,one\nimg_1.mp4,two\ncafé.mp4,three\nz.mp4,unclear\n"
    found = table(tmp_path, "c.csv", text, videos)
    assert captions(found) == dict(zip(videos[:3], ("one", "two", "three"), strict=True)) and found.elsewhere == 1


def test_a_table_that_lists_more_than_is_here_is_used_and_the_rest_counted(tmp_path: Path) -> None:
    text = "video,caption\n" + "".join(f"v{n}.mp4,thing {n}\n" for n in range(100))
    found = table(tmp_path, "c.csv", text, tuple(f"v{n}.mp4" for n in range(0, 100, 10)))
    assert len(captions(found)) == 10
    error = found.not_here()
    assert error is not None and error.count == 90
    assert str(error) == "90 of 100 captions are of videos that are not here (the first: v1.mp4, c.csv:3)"
    with pytest.raises(StageError, match=r"none of its 100 rows is of a video that is in .* \(v0\.mp4\)"):
        table(tmp_path, "c.csv", text, ("w.mp4",))


def test_prompts_and_videos_line_by_line_are_read_and_their_counts_compared(tmp_path: Path) -> None:
    (tmp_path / "videos.txt").write_text("videos/a.mp4\nvideos/b.mp4\n")
    found = table(
        tmp_path, "prompts.txt", "a cat,\tasleep\u2028now\nein Kätzchen\n\n", ("videos/a.mp4", "videos/b.mp4")
    )
    assert captions(found) == {"videos/a.mp4": "a cat, asleep now", "videos/b.mp4": "ein Kätzchen"}
    with pytest.raises(StageError, match=r"prompts.txt: 3 lines, but videos.txt beside it has 2"):
        table(tmp_path, "prompts.txt", "a\nb\nc\n", ("videos/a.mp4",))


def test_a_list_of_one_cut_has_a_list_of_one_caption(tmp_path: Path) -> None:
    row = "a,\"[['0:00:00.000', '0:00:02.000']]\",\"['A dog, asleep.']\",[0.4]\n"
    told = only(table(tmp_path, "c.csv", "videoID,timestamp,caption,matching_score\n" + row))
    assert (told.caption, told.metadata) == ("A dog, asleep.", {"matching_score": 0.4})
    row = "a,\"['0:00:00.000', '0:00:02.000']\",['kept'],[0.4]\n"
    told = only(table(tmp_path, "d.csv", "videoID,timestamp,caption,matching_score\n" + row))
    assert (told.caption, told.metadata) == ("['kept']", {"matching_score": "[0.4]"})


def test_an_address_means_the_file_that_it_ends_with(tmp_path: Path) -> None:
    rows = "file_name,caption\nhttps://host/v/a.mp4?sig=1,one\nhttps://host/v/sub/b%20c.mp4,two\n"
    assert captions(table(tmp_path, "c.csv", rows)) == {"a.mp4": "one", "sub/b c.mp4": "two"}


def test_text_behind_a_closed_quote_is_the_mistake_of_its_row_alone(tmp_path: Path) -> None:
    found = table(tmp_path, "c.csv", 'file_name,caption\nq.mp4,"x" y\na.mp4,"two\nlines"\nb c.mp4,"\\"z\\""\n,\n')
    assert captions(found) == {"a.mp4": "two lines"}
    assert {place: error.reason for place, error in found.bad.items()} == {2: "bad_row", 5: "bad_row"}
    assert "double the quotes" in str(found.bad[2])


# ---- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.xlsx", "", r"unknown caption format '.xlsx'; known: .csv, .* save the sheet as `CSV UTF-8`"),
        ("c.csv", "q.mp4,1\nsub/b_c.mp4,2", r"none of its 2 rows is of a video .* \(q.mp4\)"),
        ("c.csv", "sub/b_c.mp4,2", r"did you mean sub/b c.mp4\?"),
        ("c.csv", 'a.mp4,"one\n', r"c.csv:1: "),
        ("c.csv", "", "has no row"),
        ("c.csv", "caption,length\na cat,3\n", r"c.csv:2: no column says which video \(columns: caption, length\)"),
        ("c.csv", b"a.mp4,\xff\xfe", r"is not UTF-8 text \(byte 6\); save it as UTF-8"),
        ("c.csv", "a.mp4,café".encode("cp1252"), "CSV UTF-8"),
        ("c.csv", "a.mp4,x".encode("utf-16-le"), "zero bytes"),
        ("c.json", "[{]", r"c.json:1: is no json .* \.jsonl"),
        ("c.json", "3", "is no list of"),
        ("c.jsonl", "[1]\n", r"c.jsonl:1: is not"),
        ("c.jsonl", "\n{oops", r"c.jsonl:2: is not"),
        ("c.jsonl", '{"file": ["a.mp4"], "caption": "x"}', r"file is list, not the name of a video"),
        ("c.parquet", "hello", "not readable as parquet"),
    ],
)
def test_a_mistake_in_the_whole_is_one_line_with_file_and_remedy(
    tmp_path: Path, name: str, text: str | bytes, words: str
) -> None:
    with pytest.raises(StageError, match=words) as caught:
        table(tmp_path, name, text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_mistake_in_one_row_is_told_of_that_row_alone(tmp_path: Path) -> None:
    found = table(tmp_path, "c.jsonl", '{"file": "a.mp4", "caption": "x"}\n{oops\n{"caption": "no file"}')
    assert captions(found) == {"a.mp4": "x"} and {n: e.reason for n, e in found.bad.items()} == {
        2: "bad_row",
        3: "bad_row",
    }
    found = table(tmp_path, "c.csv", "a.mp4,one\na.mp4,two\na.mp4,one\nsub/b c.mp4,ok\n")
    assert captions(found) == {"sub/b c.mp4": "ok"} and reasons(found) == {"a.mp4": "two_captions"}
    assert "c.csv:1 and 2" in str(only(found).refusal)


def test_a_captions_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such file"):
        captions_from_files([tmp_path / "c.csv"], tmp_path, VIDEOS)


# ---- beside each video --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"a.txt": "  a cat\n asleep\n"}, "a cat asleep"),
        ({"a.TXT": "a cat"}, "a cat"),
        ({"a.mp4.txt": "a cat"}, "a cat"),
        ({"a.caption": "a cat"}, "a cat"),
        ({"a.txt": "", "a.json": '{"caption": "a cat"}'}, "a cat"),
        ({"a.txt": " \n", "a.json": "{oops"}, None),
        ({"a.txt": "a cat", "a.json": "{oops"}, "a cat"),
        ({"a.json": '{"description": "a cat", "score": 3}'}, "a cat"),
        ({"a.json": '{"caption": null}'}, ""),
        ({"a.json": '{"caption": 3}'}, None),
        ({"b.txt": "another"}, ""),
        ({"a.txt": "{\\rtf1\\ansi a cat}"}, None),
    ],
)
def test_sidecars_are_read_the_first_with_a_caption_counts(
    tmp_path: Path, files: dict[str, str], wanted: str | None
) -> None:
    (tmp_path / "a.mp4").touch()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if wanted is None:
        with pytest.raises(VideoError) as caught:
            sidecar_told(tmp_path / "a.mp4")
        assert caught.value.reason == "bad_caption"
    else:
        assert sidecar_told(tmp_path / "a.mp4").caption == wanted


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_sidecars_of_notepad_and_powershell_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("ein Kätzchen\r\n".encode(encoding))
    assert sidecar_told(tmp_path / "a.mp4").caption == "ein Kätzchen"


def test_the_rest_of_a_json_sidecar_is_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"prompt": "a cat", "aesthetic": 5.5, "license": "CC0"}')
    assert sidecar_told(tmp_path / "a.mp4") == Told("a cat", {"aesthetic": 5.5, "license": "CC0"})


def test_a_json_without_a_caption_says_so_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"score": 3}')
    told = sidecar_told(tmp_path / "a.mp4")
    assert told.metadata == {"score": 3} and told.refusal is not None
    assert told.refusal.reason == "bad_caption" and "under any of caption, prompt, text" in str(told.refusal)
    (tmp_path / "a.txt").write_text("a cat")
    assert sidecar_told(tmp_path / "a.mp4") == Told("a cat", {"score": 3})
