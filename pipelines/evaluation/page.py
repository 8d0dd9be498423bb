"""The page: a summary that answers what was made and how good it is, the samples, then a section per stage."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pipelines.evaluation import graph
from pipelines.evaluation.changes import Change
from pipelines.evaluation.changes import section as change_section
from pipelines.evaluation.glossary import HEADLINES, SCORES, Headline, meaning
from pipelines.evaluation.markup import Html, beside, join, tag
from pipelines.evaluation.origins import origin
from pipelines.evaluation.pairs import beside_splits, pair_table
from pipelines.evaluation.params import ReportParams
from pipelines.evaluation.samples import Sample, clip_rows
from pipelines.evaluation.score_table import Outcomes, named, score_table, scores_of
from pipelines.evaluation.sections import Size, gate_table, references, stage_section, word
from pipelines.progress import duration


def _policy(style: str, script: str) -> str:
    """A content security policy under which the page can ask nobody for anything."""
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        "default-src 'none'; img-src data:; media-src data: blob:; style-src-attr 'unsafe-inline'; "
        f"style-src-elem 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    )


# ---- summary ------------------------------------------------------------------------------------------------------


def _card(label: str, value: float, unit: str, below: str, stage: str) -> Html:
    figure = tag("div", f"{value:.3g}", tag("small", unit) if unit else None, class_="value")
    parts = (tag("div", label, class_="label"), figure, tag("div", below, class_="below") if below else None)
    return tag("a", *parts, class_="card", href=f"#stage-{stage}")


def _headline(stages: Outcomes, headline: Headline) -> Html | None:
    metrics = stages[headline.stage].metrics if headline.stage in stages else None
    for pattern in headline.patterns:
        for name, value in (metrics or {}).items():
            if isinstance(value, (int, float)) and fnmatchcase(name, pattern):
                levels = references(metrics or {}, name).items()
                beside = [f"{word(other)} {level:.3g}" for other, level in levels]
                below = "; ".join([headline.text, *beside])
                return _card(headline.label, value, meaning(name).unit, below, headline.stage)
    return None


def _times(stages: Outcomes) -> Html | None:
    seconds = {name: stage.seconds for name, stage in stages.items() if stage.seconds is not None}
    if not seconds:
        return None
    most, colour = max(seconds.values()) or 1.0, graph.colours(stages.values())
    rows = []
    for name, value in seconds.items():
        bar = tag("span", class_="bar", style=f"width:{max(0.4, 100 * value / most):.1f}%")
        link = tag("a", name, href=f"#stage-{name}")
        parts = (link, tag("span", bar, class_="track"), tag("span", duration(value), class_="amount"))
        rows.append(tag("div", *parts, class_=f"time group-{colour[stages[name].group]}"))
    total = tag("p", f"{duration(sum(seconds.values()))} of work in all; independent stages run side by side.")
    return tag("section", tag("h2", "Time"), total, *rows, id="time", class_="panel")


def _gates(stages: Outcomes) -> Html | None:
    gates = [{**gate, "stage": stage.name} for stage in stages.values() for gate in stage.gates]
    if not gates:
        return None
    said = "A gate that fails keeps the stages after it from starting; thresholds are in params.yaml."
    return tag("section", tag("h2", "Gates"), tag("p", said), gate_table(gates), id="gates", class_="panel")


LISTED = {
    "kernel_distance": "to real clips; 0 as real",
    "motion_ratio": "1 as real clips, 0 frozen",
    "agreement/all_identity": "prompt agreement",
    "agreement/all_motion": "prompt agreement",
}


def _list_card(stages: Outcomes, score: str, text: str) -> Html | None:
    """A card with one score of every system, and of real clips and chance where they have it."""
    scored, beside = scores_of(stages, "systems"), scores_of(stages, "references")
    rows = {named(name): row[score] for name, row in scored.items() if score in row}
    if not rows:
        return None
    others = {named(name): beside[name][score] for name in ("held_out", "chance") if score in beside.get(name, {})}
    lines = [tag("div", name, tag("b", f"{value:.2f}"), class_="line") for name, value in rows.items()]
    lines += [tag("div", name, tag("b", f"{value:.2f}"), class_="line quiet") for name, value in others.items()]
    heading = tag("div", tag("b", SCORES[score]), tag("small", text), class_="label")
    return tag("a", heading, *lines, class_="card", href="#samples")


COMMANDS = (
    ("reel run --all", "brings everything up to date; says so where it already is"),
    ("make ui", "the same graph in Dagster, with history, gates and live progress"),
    ("dvc exp run -S pseudo_classes.num_classes=48 diagnostics", "one value changed: runs k-means and its diagnostics"),
    ("dvc metrics diff", "numbers against the last commit"),
)


def _next() -> Html:
    rows = [tag("div", tag("code", command), tag("span", says), class_="next") for command, says in COMMANDS]
    return tag("section", tag("h2", "Next"), *rows, id="next", class_="panel")


def _hero(title: str, stages: Outcomes) -> Html:
    done = sum(stage.has_run for stage in stages.values())
    left = sum(stage.is_optional and not stage.has_run for stage in stages.values())
    verdicts = [str(gate.get("verdict")) for stage in stages.values() for gate in stage.gates]
    facts = [f"{done} of {len(stages) - left} stages have run" + (f" ({left} optional ones have not)" if left else "")]
    if verdicts:
        facts.append(f"{verdicts.count('pass')} of {len(verdicts)} gates pass")
    seconds = sum(stage.seconds or 0.0 for stage in stages.values())
    if seconds:
        facts.append(f"{duration(seconds)} of work")
    said = "From raw video to scored samples: what each stage made, what it measured and the values it ran with."
    return tag("header", tag("h1", title), tag("p", said, class_="lead"), tag("p", " · ".join(facts), class_="facts"),
               class_="hero")  # fmt: skip


PLACES = {"summary": "top", "samples": "samples", "changes": "changes"}


def _navigation(stages: Outcomes) -> Html:
    colour = graph.colours(stages.values())
    links = [
        tag("a", "summary", href="#top"),
        tag("a", "samples", href="#samples"),
        tag("a", "changes", href="#changes"),
    ]
    for name, stage in stages.items():
        classes = f"group-{colour[stage.group]}" + ("" if stage.has_run else " missing")
        links.append(tag("a", name.replace("_", " "), href=f"#stage-{name}", class_=classes))
    return tag("nav", tag("div", *links), aria_label="sections")


def _samples(samples: list[Sample] | None, folder: Path, stages: Outcomes, pixels: int, most: int) -> Html:
    parts = [tag("h2", "Samples and scores")]
    if scores_of(stages, "systems"):
        parts.append(score_table(stages, lambda name: "/" not in name))
        said = (
            "Prompt agreement: share of samples in which a probe reads what the prompt says. Held out is its ceiling."
        )
        parts += [tag("p", said), score_table(stages, lambda name: name.startswith("agreement/"))]
        parts += beside_splits(stages) + pair_table(folder)
    if samples is None:
        command = tag("code", "dvc repro evaluation")
        parts.append(tag("p", "No samples yet: ", command, " makes and scores them.", class_="absent"))
    else:
        said = "Same prompts for every system. Under each clip: what a probe reads in it, against the prompt's factors."
        parts += [tag("p", said), clip_rows(samples, folder, pixels, most)]
    return tag("section", *parts, id="samples", class_="panel wide")


def page(
    params: ReportParams,
    stages: Outcomes,
    samples: list[Sample] | None,
    folder: Path,
    changed: Sequence[Change],
    size: Size,
) -> Html:
    """The whole document, self-contained: pictures, clips, style and script are inside."""
    style, script = beside("page.css"), beside("page.js")
    colour = graph.colours(stages.values())
    cards = [card for headline in HEADLINES if (card := _headline(stages, headline)) is not None]
    lists = [card for score, text in LISTED.items() if (card := _list_card(stages, score, text)) is not None]
    drawn = tag("section", graph.draw(stages), graph.draw(stages, down=True), class_="graph", id="graph")
    sections = [stage_section(stage, colour[stage.group], size, origin(stage)) for stage in stages.values()]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", params.title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        _hero(params.title, stages),
        _navigation(stages),
        tag(
            "main",
            drawn,
            tag("div", *cards, class_="cards") if cards else None,
            tag("div", *lists, class_="cards") if lists else None,
            _samples(samples, folder, stages, params.clip_pixels, size.prompts),
            change_section(changed),
            tag("div", _times(stages), _next(), class_="columns"),
            _gates(stages),
            *sections,
        ),
        tag("script", Html(script)),
        id="top",
    )
    return join([Html("<!doctype html>\n"), tag("html", head, body, lang="en")])
