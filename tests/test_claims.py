"""Numbers of README and docs are those of the run they are said to be of (`python -m benchmarks.claims`)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.marks import FORM, ClaimError

REPO = Path(__file__).parents[1]

PAGE = """# Words

The ratio is 0.50 (0.40 to 0.60)<!--= demo judge systems/good/ratio-->, the share 12 %<!--= demo judge share-->,
of **1,000**<!--= demo judge count--> clips; −0.2 ± 0.1<!--= demo judge shift--> apart.

<!--= demo
columns: judge systems/*/ratio, -, judge systems/*/word
rows: good, -, bad
-->

| | ratio | of | verdict |
|---|---|---|---|
| a good one | 0.5 (0.4 to 0.6) | 7 | better |
| of elsewhere | 0.9 | 9 | none |
| a bad one | **0.2** | 7 | worse |

<!--= demo lines-->
```console
judge  done  2.6 s  data  share 0.12  other 5  [good pass]
judge: gate good: pass (0.5 >= 0.3; why)
```
"""
METRICS = {
    "share": 0.12,
    "count": 1000,
    "shift": -0.2,
    "shift_std": 0.1,
    "systems": {
        "good": {"ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6, "word": "better"},
        "bad": {"ratio": 0.2, "word": "worse"},
    },
    "gates": [{"name": "good", "value": 0.5, "comparison": ">=", "threshold": 0.3, "verdict": "pass"}],
    "unquoted": 3.0,
}


def project(folder: Path, page: str = PAGE, metrics: dict = METRICS) -> Path:
    """A repository of one page, and the run that it quotes."""
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/page.md").write_text(page)
    ran(folder, metrics)
    return folder


def ran(folder: Path, metrics: dict) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/judge.json").write_text(json.dumps(metrics))


def page_of(folder: Path) -> str:
    return (folder / "docs/page.md").read_text()


def test_every_marked_number_of_readme_and_docs_is_that_of_its_run() -> None:
    assert claims.mistakes(REPO) == [], "`python -m benchmarks.claims` says the same"


def test_each_run_is_named_by_its_commit_and_day() -> None:
    for file in (REPO / "docs/numbers").glob("*.json"):
        run = json.loads(file.read_text())["run"]
        assert re.fullmatch("[0-9a-f]{40}", run["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", run["day"])


def test_how_good_the_demo_is_has_no_number_that_nobody_checks() -> None:
    text = (REPO / "docs/demo.md").read_text().partition("## How good it is")[2]
    text = re.sub(r"<!--= \w+\ncolumns.*?-->\n+(\|[^\n]*\n)+", "", text, flags=re.DOTALL)
    pieces = [part.rpartition("<!--=")[0] or part for part in text.split("-->")]
    unmarked = [piece for piece in [FORM.sub("", piece) for piece in pieces] if re.search(r"\d\.\d", piece)]
    assert unmarked == []


def test_taking_a_run_changes_nothing_where_pages_agree_and_quotes_no_more_than_they_do(tmp_path: Path) -> None:
    folder = project(tmp_path)
    assert claims.take(folder, "demo", folder) == [] and claims.mistakes(folder) == []
    assert page_of(folder) == PAGE
    assert "unquoted" not in (folder / "docs/numbers/demo.json").read_text()


@pytest.mark.parametrize(
    ("was", "wrong"),
    [
        ("0.50 (0.40", "0.51 (0.40"),
        ("0.40 to 0.60", "0.40 to 0.61"),
        ("12 %", "13 %"),
        ("1,000", "1,001"),
        ("−0.2 ±", "0.2 ±"),
        ("± 0.1", "± 0.2"),
        ("0.5 (0.4 to 0.6) |", "0.5 (0.4 to 0.7) |"),
        ("| worse |", "| better |"),
        ("share 0.12", "share 0.13"),
        ("[good pass]", "[good warn]"),
        ("(0.5 >= 0.3", "(0.6 >= 0.3"),
    ],
)
def test_a_digit_or_word_that_is_not_the_runs_is_found_and_mended(tmp_path: Path, was: str, wrong: str) -> None:
    folder = project(tmp_path)
    claims.take(folder, "demo", folder)
    assert PAGE.count(was) == 1
    (folder / "docs/page.md").write_text(PAGE.replace(was, wrong))
    (told,) = claims.mistakes(folder)
    assert told.startswith("docs/page.md:") and wrong in told and was in told
    claims.take(folder, "demo", folder)
    assert page_of(folder) == PAGE


def test_a_new_run_is_written_with_the_digits_that_stand_there(tmp_path: Path) -> None:
    folder = project(tmp_path)
    new = {**METRICS, "share": 0.3456, "shift": 0.04, "count": 12}
    ran(folder, new)
    told = claims.take(folder, "demo", folder)
    assert "the share 35 %<" in page_of(folder) and "**12**<" in page_of(folder) and "0.0 ± 0.1<" in page_of(folder)
    assert len(told) == 3, "both lines of the text, and that of the output"
    assert "share 0.3456  other 5" in page_of(folder), "what is no number of the stage stays"
    assert claims.mistakes(folder) == []


@pytest.mark.parametrize(
    ("was", "wrong", "complaint"),
    [
        ("judge share-->", "judge sahre-->", "docs/page.md: line 3: docs/numbers/demo.json has no judge sahre"),
        ("12 %<!--", "twelve<!--", "no number before the mark"),
        ("rows: good, -, bad", "rows: good, bad", "names 2 rows, the table has 3"),
        ("judge systems/*/ratio, -, judge", "judge systems/*/ratio, judge", "4 cells|3 cells, the comment names 2"),
        ("<!--= demo lines-->", "<!--= demo line-->", "neither number, table nor lines"),
        ("| **0.2** |", "| about 0.2 |", "no number with or without an interval"),
        ("| **0.2** |", "| 0.2 (0.1 to 0.3) |", "has no judge systems/bad/ratio_low"),
    ],
)
def test_a_mark_that_cannot_be_read_is_told_and_nothing_is_written(
    tmp_path: Path, was: str, wrong: str, complaint: str
) -> None:
    folder = project(tmp_path, PAGE.replace(was, wrong))
    with pytest.raises(ClaimError, match=complaint):
        claims.take(folder, "demo", folder)
    assert not (folder / "docs/numbers").exists()
    assert claims.main(["take", "demo", str(folder)], folder) == 1


def test_times_of_stages_come_from_what_the_demo_printed(tmp_path: Path) -> None:
    page = PAGE.replace("judge  done  2.6 s  data  ", "judge  done     2 min 6 s  data  ").replace(
        "```\n", "\n2 stages in 9 s\n```\n"
    )
    folder = project(tmp_path, page)
    printed = (
        "stage  outcome  time   made\njudge  done     3.1 s  data  share 0.12\nother  done     1 s\n\n2 stages in 4 s\n"
    )
    (tmp_path / "demo.txt").write_text(printed)
    assert claims.main(["take", "demo", str(folder), str(tmp_path / "demo.txt")], folder) == 0
    assert page_of(folder) == page.replace("2 min 6 s  data", "3.1 s      data").replace(
        "stages in 9 s", "stages in 4 s"
    )


def test_taking_one_run_leaves_the_marks_of_another_to_its_own(tmp_path: Path) -> None:
    folder = project(tmp_path, PAGE.replace("12 %<!--= demo judge", "99 %<!--= later judge"))
    assert claims.take(folder, "demo", folder) == []
    assert claims.mistakes(folder) == ["docs/page.md: line 3: docs/numbers/later.json has no judge share"]
    claims.take(folder, "later", folder)
    assert "12 %<!--= later judge" in page_of(folder) and claims.mistakes(folder) == []


def test_a_number_that_no_page_quotes_any_more_is_told(tmp_path: Path) -> None:
    folder = project(tmp_path)
    claims.take(folder, "demo", folder)
    (folder / "docs/page.md").write_text(
        PAGE.replace("12 %<!--= demo judge share-->", "a tenth").replace("share 0.12", "")
    )
    assert claims.mistakes(folder) == ["docs/numbers/demo.json: no page quotes judge share"]


def test_a_folder_without_metrics_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["take", "demo", str(tmp_path / "nowhere")], tmp_path) == 1
    assert "no metrics; give the folder in which the demo ran" in capsys.readouterr().err


def test_an_ablation_away_from_its_project_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ablation.json").write_text("{}")
    assert claims.main(["take", "headline", str(tmp_path / "ablation.json")], tmp_path) == 1
    assert "name it where reel ablate wrote it" in capsys.readouterr().err


def test_means_differences_and_verdicts_of_an_ablation_are_marked_like_others(tmp_path: Path) -> None:
    mark = "<!--= three\ncolumns: a *, b *, b */difference, b */verdict\nrows: x\n-->\n\n"
    page = mark + "| | a | b | | |\n|---|---|---|---|---|\n| x | 2.0 ± 1.0 | 0.0 | +0.0 (−0.0 to 0.0) | ? |\n"
    folder = project(tmp_path, page)
    ablation = {
        "seeds_moved_in": ["train"],
        "values": {"a": {"x": {"0": 1.0, "1": 2.0, "2": 3.0}}, "b": {"x": {"0": 2.0, "1": 3.0, "2": 4.0}}},
        "differences": {"b": {"x": {"mean": 1.0, "low": -0.5, "high": 2.5, "verdict": "within noise"}}},
    }
    (folder / ".work/ablations").mkdir(parents=True)
    (folder / ".work/ablations/ablation.json").write_text(json.dumps(ablation))
    claims.take(folder, "three", folder / ".work/ablations/ablation.json")
    assert "| x | 2.0 ± 1.0 | 3.0 | +1.0 (−0.5 to +2.5) | within noise |" in page_of(folder)
