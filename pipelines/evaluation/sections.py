"""The section of one stage on the page: what it is, its gates, numbers, curves, pictures, values and origin."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.evaluation import curves
from pipelines.evaluation.glossary import CHANCE_WORDS, meaning
from pipelines.evaluation.markup import Html, data_uri, join, player, shortened, tag
from pipelines.evaluation.outcomes import Outcome
from pipelines.progress import duration

VERDICTS = {"pass": "✓ pass", "warn": "! warn", "fail": "✗ fail"}
UNFOLDED_ROWS = 14
CLIP_PIXELS = 200
"""Width at which the validations of a training play."""
RAN_ON = "ran_on"
"""The metric that is no number: the machine, which stands with the checkpoint's origin."""


@dataclass(frozen=True)
class Size:
    """How much is on the page: prompts with clips, validations of a training, pictures of a stage.

    Pictures above ``picture_kilobytes`` become WebP.
    """

    picture_kilobytes: int
    prompts: int = 10_000
    validations: int = 5
    pictures: int = 10_000


def number(value: Any) -> str:
    """A metric as a person reads it: four significant digits, thousands apart, words as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shortened(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}".replace(",", "\u202f")


def chip(verdict: str) -> Html:
    """A verdict in words, with a colour."""
    return tag("span", VERDICTS.get(verdict, verdict), class_=f"chip {verdict if verdict in VERDICTS else 'plain'}")


def table(heads: Iterable[object], rows: Iterable[Iterable[object]], kind: str = "") -> Html:
    """A table that scrolls inside its own box on narrow screens."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in heads)))
    body = tag("tbody", *(tag("tr", *(_cell(cell) for cell in row)) for row in rows))
    return tag("div", tag("table", head, body, class_=kind or None), class_="scroll", tabindex="0")


def _cell(cell: object) -> Html:
    is_number = isinstance(cell, str) and not isinstance(cell, Html) and cell[:1].lstrip("-−").isdigit()
    return tag("td", cell, class_="number" if is_number else None)


def folded(title: str, *content: object, is_open: bool = False) -> Html:
    """Content behind a line that opens it."""
    return tag("details", tag("summary", title), *content, open="open" if is_open else None)


# ---- parts --------------------------------------------------------------------------------------------------------


def gate_table(gates: Sequence[Mapping[str, Any]]) -> Html:
    """Gates with value, threshold and verdict; those with a ``stage`` link to its section."""
    rows = []
    for gate in gates:
        of_stage = (tag("a", gate["stage"], href=f"#stage-{gate['stage']}"),) if "stage" in gate else ()
        limit = f"{gate.get('comparison', '')} {number(gate.get('threshold', ''))}"
        value = number(gate["value"]) if gate.get("value") is not None else "undefined"
        verdict, why = chip(str(gate.get("verdict", ""))), shortened(gate.get("reason", ""))
        rows.append((*of_stage, tag("code", shortened(gate.get("name", ""))), value, limit, verdict, why))
    return table((*(("stage",) if "stage" in gates[0] else ()), "gate", "value", "wanted", "verdict", "why"), rows)


def references(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Chance level, ceiling or baseline that stands beside a metric: ``nmi_chance``, ``chance/nmi``, ``nmi/chance``."""
    head, _, last = name.rpartition("/")
    found = {}
    for word in CHANCE_WORDS:
        for other in (f"{name}_{word}", f"{name}/{word}", f"{head}/{word}_{last}".lstrip("/"), f"{word}/{name}",
                      f"{head}_{word}/{last}"):  # fmt: skip
            if other in metrics and other != name:
                found[other] = metrics[other]
    return found


def metric_table(stage: Outcome) -> Html:
    """Every number with its unit, what stands beside it and what it means."""
    metrics = dict(stage.metrics or {})
    beside = {other for name in metrics for other in references(metrics, name)}
    rows = []
    for name, value in metrics.items():
        if name in beside or name == RAN_ON:
            continue
        said, others = meaning(name), references(metrics, name)
        compared = join((f"{word(other)} {number(level)}" for other, level in others.items()), ", ")
        words = said.text + (f" ({said.better} is better)" if said.better in ("higher", "lower") else "")
        words += f" ({said.better})" if said.better and said.better not in ("higher", "lower") else ""
        rows.append((tag("code", shortened(name)), number(value), said.unit, compared, words))
    rows += [
        (tag("code", shortened(name)), "–", "", "", f"not defined: {shortened(why)}")
        for name, why in stage.unavailable.items()
    ]
    heads = ("number", "value", "unit", "beside it", "what it means")
    kept = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    return table((heads[column] for column in kept), ([row[column] for column in kept] for row in rows), "metrics")


def word(other: str) -> str:
    """What kind of level a reference metric is, in words."""
    return next(level for level in CHANCE_WORDS if level in other).replace("_", " ")


def picture(path: Path, kilobytes: int) -> Html:
    """A picture, still or moving, as data, as WebP where the file is larger than ``kilobytes``.

    A file that is no picture is named as such: the page is still written.
    """
    content, suffix = path.read_bytes(), path.suffix
    caption = tag("figcaption", path.stem.replace("_", " "))
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, ValueError):
        return tag("figure", tag("p", f"{path.name} cannot be shown: it is no picture.", class_="absent"), caption)
    if len(content) > kilobytes * 1024:
        smaller = io.BytesIO()
        moves = getattr(image, "is_animated", False)
        shown = image if moves else image.convert("RGB")
        shown.save(smaller, "WEBP", quality=84, method=4, save_all=moves)
        if smaller.tell() < len(content):
            content, suffix = smaller.getvalue(), ".webp"
    drawn = tag("img", src=data_uri(content, suffix), alt=f"{path.stem.replace('_', ' ')}", loading="lazy",
                width=image.width, height=image.height)  # fmt: skip
    return tag("figure", drawn, caption, class_="picture")


def values(params: Mapping[str, Any], prefix: str = "") -> list[tuple[Html, str]]:
    """Rows of nested parameters under dotted names."""
    rows: list[tuple[Html, str]] = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            rows += values(value, f"{prefix}{name}.")
        else:
            words = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((tag("code", shortened(f"{prefix}{name}")), "none" if value is None else shortened(words)))
    return rows


# ---- the section --------------------------------------------------------------------------------------------------


def stage_section(stage: Outcome, colour: int, size: Size, origin: Html | None) -> Html:
    """Everything about one stage; what is not there is named as missing."""
    seconds = stage.seconds
    if not stage.has_run:
        state = tag("span", "optional, not run" if stage.is_optional else "not run", class_="chip missing")
    else:
        state = tag("span", "done" if seconds is None else f"done in {duration(seconds)}", class_="chip plain")
    verdict = chip(stage.verdict) if stage.verdict else None
    kinds = [tag("span", kind, class_="kind") for kind in stage.kinds]
    names = tag(
        "div", tag("span", stage.group.replace("_", " "), class_="group"), *kinds, state, verdict, class_="tags"
    )
    links = join((tag("a", name, href=f"#stage-{name}") for name in stage.reads), ", ")
    reads = tag("p", "reads ", links, class_="reads") if stage.reads else None
    head = tag("header", tag("h2", stage.name), names, tag("p", stage.description, class_="description"), reads)
    body = [*_body(stage, size), origin] if stage.has_run else [_absent(stage)]
    return tag("section", head, *body, id=f"stage-{stage.name}", class_=f"stage group-{colour}")


def _absent(stage: Outcome) -> Html:
    command = tag("code", f"dvc repro {stage.name}")
    return tag("p", "This stage has not run, so there are no numbers of it. ", command, " runs it.", class_="absent")


def _validations(stage: Outcome, most: int) -> Html:
    """The clips of some validations, evenly spread from the first to the last."""
    count = min(most, len(stage.clips))
    chosen = [stage.clips[round(place * (len(stage.clips) - 1) / max(1, count - 1))] for place in range(count)]
    shown = [
        player(data_uri(path.read_bytes(), ".mp4"), f"step {int(path.stem.removeprefix('step-'))}", CLIP_PIXELS)
        for path in chosen
    ]
    return tag("div", *shown, class_="clips", style=f"--clip:{CLIP_PIXELS}px")


def _body(stage: Outcome, size: Size) -> list[Html | None]:
    pictures = [picture(path, size.picture_kilobytes) for path in stage.pictures[: size.pictures]]
    left_out = len(stage.pictures) - len(pictures)
    rows = len(stage.metrics or {}) + len(stage.unavailable)
    made = tag("p", tag("code", stage.command), class_="command")
    return [
        gate_table(stage.gates) if stage.gates else None,
        tag("div", *pictures, class_="pictures") if pictures else None,
        tag("p", f"{left_out} more pictures are in plots/{stage.name}.", class_="absent") if left_out else None,
        _validations(stage, size.validations) if stage.clips and size.validations else None,
        curves.draw(stage.training),
        folded("All numbers" if rows > 1 else "Number", metric_table(stage), is_open=rows <= UNFOLDED_ROWS)
        if rows
        else None,
        folded("The values it ran with", made, table(("parameter", "value"), values(stage.params), "plain")),
    ]
