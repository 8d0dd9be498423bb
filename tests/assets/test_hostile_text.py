"""Texts of anybody (captions, names, a log) do no harm on Dagster's pages: they are short, visible, and no Markdown."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.translator import ReelTranslator
from dagster_dvc import shown
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, materialize

pytestmark = QUIET
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "| a |\n|---|\n# heading\n- list\n```\n~~~\n[click](javascript:alert(1)) ![x](http://example.org/x.png)",
    "$$\\frac{1}{0}$$ `code` **bold** @somebody https://example.org",
    "\x00\x1b[31m\u202e\u2028\r\t\x85",
    "x" * 1_000_000,
]
DVC_YAML = """
stages:
  train:
    desc: Says what it was told.
    cmd: python train.py
    deps: [train.py]
    params: [train]
    outs: [model]
    metrics: [metrics.json]
    plots: [plots]
"""
TRAIN = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML
texts = json.loads(Path("texts.json").read_text())
if Path("fails").exists():
    print("\\n".join(["```", *texts]), file=sys.stderr)
    sys.exit(3)
for folder in ("model", "plots"):
    Path(folder).mkdir()
gates = [{"name": text, "value": 1.0, "threshold": 0.0, "comparison": ">=", "verdict": "pass", "reason": text}
         for text in texts]
Path("metrics.json").write_text(json.dumps({"gates": gates, **{text: 0.5 for text in texts}, text_of("caption"): 1}))
record = {"step": 3, "inputs": {text: {"path": text, "digest": text} for text in texts},
          "weights": {text: text for text in texts}, "parent": {"path": texts, texts[0]: texts[1]}}
Path("model/checkpoint.json").write_text(json.dumps(record))
Path("model/README.md").write_text("\\n".join(texts))
Path("plots/![x](y)<b>.png").write_bytes(PNG)
""".replace('text_of("caption")', "'caption'")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A stage that writes hostile texts wherever its page looks, with such params."""
    root = toy.make(tmp_path / "project", DVC_YAML, train__py=TRAIN.replace("PNG)", f"{toy.PNG!r})"))
    (root / "texts.json").write_text(json.dumps(HOSTILE))
    params = {f"key {number}": text for number, text in enumerate(HOSTILE[:3])}
    (root / "params.yaml").write_text(json.dumps({"train": {**params, "long": HOSTILE[4][:100_000]}}))
    return root


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a value of metadata."""
    if isinstance(value, dg.TableMetadataValue):
        yield from (text for row in value.records for text in texts_of(dict(row.data)))
    elif isinstance(value, dg.MetadataValue):
        yield from texts_of(value.value)
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in texts_of(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in texts_of(part))
    elif isinstance(value, str):
        yield value


def check_harmless(metadata: dict[str, Any]) -> None:
    """A page can show all of it: of some size, nothing invisible, no markup but ours."""
    texts = [text for pair in metadata.items() for part in pair for text in texts_of(part)]
    assert sum(map(len, texts)) < 400_000 and max(map(len, metadata)) < 200
    assert all(one.isprintable() or one in "\n\t" for text in texts for one in text)


def outside_code(text: str) -> str:
    """A text of Markdown without what stands behind a backslash."""
    return re.sub(r"\\.", "", text)


@pytest.mark.costly
def test_a_page_shows_hostile_texts_as_short_texts(project: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(project, instance, translator=ReelTranslator())
        assert result.success
        [event] = result.get_asset_materialization_events()
    metadata = dict(event.materialization.metadata)
    check_harmless(metadata)
    gates = metadata["gates"].value
    assert isinstance(gates, str) and len(gates.splitlines()) == len(HOSTILE)
    assert not re.search(r"[<\[`|$*]", outside_code(gates))
    [picture] = [value.value for name, value in metadata.items() if name.startswith("picture/")]
    assert re.fullmatch(r"!\[[^\]]*\]\(data:image/png;base64,[\w+/=]+\)", outside_code(str(picture)))


@pytest.mark.costly
def test_a_failure_shows_hostile_last_lines_as_one_block(project: Path) -> None:
    (project / "fails").write_text("")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(project, instance, translator=ReelTranslator())
        assert not result.success
        [failure] = [event.step_failure_data for event in result.filter_events(lambda one: one.is_step_failure)]
    assert failure.user_failure_data is not None
    metadata = dict(failure.user_failure_data.metadata)
    check_harmless(metadata)
    told = str(metadata["last lines"].value)
    fence = told.partition("\n")[0]
    assert set(fence) == {"`"} and told.count(fence) == 2 and told.endswith(f"\n{fence}")


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(0, 40))
def test_a_line_is_one_line_without_marks_and_a_block_ends_only_where_it_ends(text: str, most: int) -> None:
    told = shown.line(text, most)
    assert "\n" not in told and told.isprintable() and not re.search(r"[<>\[\]`|$*_#]", outside_code(told))
    fence = (made := shown.block(text)).partition("\n")[0]
    assert made.count(fence) == 2 and made.startswith(fence) and made.endswith(fence)


def test_what_is_short_and_visible_is_shown_as_it_is() -> None:
    table = dg.MetadataValue.table([dg.TableRecord({"path": "data/clips", "size": 3})])
    metadata = {"psnr": 29.5, "why": "größer\nals", "table": table, "of": dg.MetadataValue.json({"a": [1, "b"]})}
    told = shown.tamed(metadata)
    assert told["psnr"] == 29.5 and told["why"] == "größer\nals" and told["of"] == metadata["of"]
    assert told["table"].records == table.records
