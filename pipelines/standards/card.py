"""A release's model card for the model hub, and its list of licences.

What artifacts carry may be of anybody (a caption, a name in a parameter): it goes into the cards as one short line of
text, in which neither markdown nor HTML nor a control character means anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipelines.provenance import printable, set_values
from pipelines.standards.facts import SPDX, UNKNOWN, Release, hub_datasets
from pipelines.standards.statements import clean

CARD, LICENCES = "README.md", "LICENSES.md"
MOST = 120
SPECIAL = re.compile(r"([\\`*_\[\]|~$@]|:(?=//)|(?<=www)\.|^[#+\-.=\d])")
"""What means something in a line of markdown, as the hub reads it: marks, formulas, links and mentions, list signs."""
SHOWN_CHANGES = 40
NOTHING = " null (not shipped)"
"""End of a value that is not set and has no counterpart among the shipped ones."""


def plain(text: Any, most: int = MOST) -> str:
    """A text as a reader sees it, in one line, whatever stands in it."""
    line = printable(str(clean(text) if isinstance(text, str) else text)[: 4 * most])
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return SPECIAL.sub(r"\\\1", line)


def code(text: Any, most: int = MOST) -> str:
    """A text as code in one line: no character of it ends the code, or the cell of a table."""
    line = printable(str(clean(text) if isinstance(text, str) else text)[: 4 * most])
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return f"`{line.replace('`', chr(39)).replace('|', '¦')}`"


def word(text: str) -> str:
    """A text in the card's metadata: one short line, as it is."""
    return printable(str(clean(text)))[:MOST]


def front(release: Release) -> str:
    """The metadata between the card's dashes, by the hub's own library."""
    adapter = "adapter" if release.is_adapter else "finetune"
    bases = [word(base.name) for base in release.own_bases]
    licence = release.licence or UNKNOWN
    is_known = licence.lower() in {*SPDX, UNKNOWN}
    data = ModelCardData(
        license=licence.lower() if is_known else "other",
        license_name=None if is_known else word(licence),
        library_name="diffusers" if release.loads_with == "diffusers" else "reelgraph",
        pipeline_tag=release.task if release.task != "other" else None,
        tags=["reelgraph", *(["lora"] if release.is_adapter else [])],
        base_model=bases or None,
        base_model_relation=adapter if bases else None,
        datasets=[word(name) for name in hub_datasets(release.nodes)] or None,
        model_name=word(release.name) if release.results else None,
        eval_results=list(_evaluations(release)) or None,
    )
    return data.to_yaml(line_break="\n")


def _evaluations(release: Release) -> Iterator[EvalResult]:
    for one in release.results:
        if not math.isfinite(one.value):
            continue
        interval = {"confidence": 0.95, "low": one.low, "high": one.high}
        yield EvalResult(
            task_type=release.task,
            dataset_type="reelgraph",
            dataset_name=_judged_on(release),
            dataset_split="test",
            metric_type=word(one.name),
            metric_value=one.value,
            metric_args=interval if one.low is not None and one.high is not None else None,
        )


def _judged_on(release: Release) -> str:
    digest = next((digest for digest, node in release.nodes.items() if node.get("stage") == "raw_video"), None)
    return f"clips {digest[:12]}" if digest else "the clips of its project"


def card(release: Release, how_to_call: str) -> str:
    """The whole card; ``how_to_call`` is markdown of ours, a section without a title."""
    parts = [
        f"---\n{front(release)}\n---\n\n# {plain(release.name)}\n",
        f"Trained {release.record.get('step')} steps by Reelgraph's stage {code(release.stage)}.\n",
        f"## How to call it\n\n{how_to_call.strip()}\n",
        _results(release),
        _made(release),
        "## What is in this folder\n\n" + "\n".join(f"- {line}" for line in CONTENTS) + "\n",
    ]
    return "\n".join(part for part in parts if part)


CONTENTS = (
    "`checkpoint.json`: the record of the training, with the SHA-256 of every weight file",
    "`lineage.json`: the chain back to the clips; `lineage.runs.json`: commits, times, machines, where recorded",
    "`provenance.intoto.jsonl`: signed in-toto statements, SLSA provenance per stage, gates as test results",
    "`bom.cdx.json`: bill of materials, CycloneDX 1.6; `LICENSES.md`: the licences, as far as they are known",
    "`model.sig`: OpenSSF Model Signing over every other file: "
    "`model_signing verify key . --signature model.sig --public_key THE_KEY_YOU_TRUST`",
)


def _results(release: Release) -> str:
    if not release.results:
        return "## Results\n\nNo evaluation of these very weights was at hand.\n"
    lines = [
        "## Results\n",
        f"On {release.num_samples} prompts of the test split, 95 % intervals over them (bootstrap), one training seed.",
        "Chance: drawn at random; real: held-out clips, judged in the same way.\n",
        "| metric | value | 95 % | chance | real |\n|---|---|---|---|---|",
    ]
    for one in release.results:
        span = f"{one.low:.3g} to {one.high:.3g}" if one.low is not None and one.high is not None else ""
        beside = ["" if value is None else f"{value:.3g}" for value in (one.chance, one.real)]
        lines.append(f"| {code(one.name)} | {one.value:.4g} | {span} | {beside[0]} | {beside[1]} |")
    return "\n".join(lines) + "\n"


def _made(release: Release) -> str:
    lines = ["## Where it came from\n"]
    for digest, node in release.backwards:
        run = release.runs.get(digest) or {}
        dirty = ", **with local changes that no commit holds**" if run.get("dirty") else ""
        commit = f"commit {code(run['commit'][:12])}{dirty}" if run.get("commit") else f"commit {UNKNOWN}"
        counts = (node.get("facts") or {}).get("splits") or {}
        told = "; " + ", ".join(f"{plain(name)} {count}" for name, count in counts.items()) if counts else ""
        lines.append(f"- {code(node.get('stage'))} made {code(node.get('path'))} ({code(digest[:12])}); {commit}{told}")
        told_of = [value for value in set_values(clean(node), every=False) if not value.endswith(NOTHING)]
        lines += [f"  - {plain(value)}" for value in told_of[:SHOWN_CHANGES]]
    lines += [f"- published model {code(base.name)} as {code(f'{base.stage}.{base.place}')}" for base in release.bases]
    return "\n".join(lines) + "\n"


# ---- licences -----------------------------------------------------------------------------------------------------


def licences(release: Release) -> str:
    """Every part with its licence; ``unknown`` where nothing states it, which is not the same as free."""
    rows = [("these weights", "model", release.licence or f"{UNKNOWN}: whoever released them did not say")]
    rows += [(f"{base.name} ({base.stage}.{base.place})", "published model", base.licence or UNKNOWN) for base in
             release.bases]  # fmt: skip
    rows += list(_source_rows(release))
    rows += [(f"{name} {version}", "library", _library_licence(name, version)) for name, version in
             release.libraries.items()]  # fmt: skip
    return "\n".join(["# Licences\n", "| part | kind | licence |\n|---|---|---|", *map(_row, rows), ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def _source_rows(release: Release) -> Iterator[tuple[str, str, str]]:
    clips = [node for node in release.nodes.values() if node.get("stage") == "raw_video"]
    if any(((node.get("params") or {}).get("source") or {}).get("rendered") for node in clips):
        yield "clips", "data", "drawn by the program itself; no footage of anybody"
    elif not release.sources:
        yield "clips", "data", f"{UNKNOWN}: their catalog was not at hand"
    else:
        for licence, count in release.sources.items():
            yield f"{count} clips", "data", licence or f"{UNKNOWN}: their source states none"


def _library_licence(name: str, version: str) -> str:
    if name == "python":
        return "PSF-2.0"
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return UNKNOWN
    stated = [found[key] for key in ("License-Expression", "License") if key in found]
    return stated[0].splitlines()[0] if stated and found["Version"] == version else UNKNOWN
