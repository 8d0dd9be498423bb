"""``reel log``: the records of all runs, written into a marked part of LOG.md; ``reel log --help``.

The program fills a record and decides by the gates. A person may decide otherwise, with a reason: that line lives in
LOG.md itself, which git keeps, and survives every rewriting. So does the entry of a run whose record is gone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.processes import is_alive
from pipelines.progress import duration
from pipelines.record import FILE
from pipelines.stage import StageError, write_json

BEGIN, END = "<!-- runs: written by `reel log` -->", "<!-- /runs -->"
HEADING = re.compile(r"^### (\S+) `([0-9a-f]+)`", re.MULTILINE)
BY_PERSON = re.compile(r"^- decision: \*\*(keep|drop)\*\*, (.*) \(a person, (\S+)\)$", re.MULTILINE)
MOST_NUMBERS = 12
MOST_LETTERS = 120


def read_records(work: Path = Path(".work")) -> list[tuple[Path, dict[str, Any]]]:
    """Every record below ``work``, oldest first. A run whose process is gone without a word was interrupted."""
    found = []
    for path in sorted(work.glob(f"*/*/{FILE}")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "running" and not is_alive(int(record["pid"])):
            record["status"] = "interrupted"
        found.append((path, record))
    return sorted(found, key=lambda item: item[1]["header"]["began_at"])


# ---- one entry ----------------------------------------------------------------------------------------------------


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None and value != "")


def _data(record: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, facts in record["data"].items():
        count = f", {facts['samples']} samples" if facts.get("samples") is not None else ""
        splits = f" ({_listed(facts['splits'])})" if facts.get("splits") else ""
        shards = f", shards {facts['shard_range'][0]} to {facts['shard_range'][1]}" if facts.get("shard_range") else ""
        lines.append(f"- {name}: `{facts['path']}` `{facts['digest'][:12]}`{count}{splits}{shards}")
    return lines


def _model(record: Mapping[str, Any]) -> list[str]:
    model = record.get("model") or {}
    lines = [
        f"- {name}: `{facts['path']}` `{facts['digest'][:12]}`, {'frozen' if facts['frozen'] else 'trained on'}"
        for name, facts in (model.get("read") or {}).items()
    ]
    if "objective" not in model:
        return lines
    parts = [f"{name} ({facts['class']}, {facts['parameters']:,} weights)" for name, facts in model["trained"].items()]
    frozen = [f"{name} ({facts['class']})" for name, facts in model["frozen"].items()]
    return [*lines, f"- {model['objective']}: trains {', '.join(parts)}; frozen: {', '.join(frozen) or 'nothing'}"]


def _contract(record: Mapping[str, Any]) -> list[str]:
    """The choices that the logging contract asks for, and why the run has none of some."""
    found = dict(record.get("contract") or {})
    absent = found.pop("absent", {})
    lines = [
        f"- {name}: {_listed({key: _short(value) for key, value in parts.items()})}" for name, parts in found.items()
    ]
    return lines + [f"- {name}: none, {reason}" for name, reason in absent.items()]


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _runtime(record: Mapping[str, Any]) -> str:
    runtime, resumed = record["runtime"], record["header"].get("resumed_at", [])
    speed, memory = runtime.get("throughput/samples_per_second"), runtime.get("memory/peak_gib")
    took = []
    if "steps" in runtime:
        took += [
            f"{runtime.get('step', 0)} of {runtime['steps']} steps of {runtime['batch_size']}",
            runtime["precision"],
        ]
    took += [duration(float(runtime["seconds"]))] if "seconds" in runtime else []
    took += [f"{speed:.4g} samples/s"] if speed is not None else []
    took += [f"peak {memory:.2f} GiB"] if memory is not None else []
    took += [f"resumed {len(resumed)} times"]
    return f"- {', '.join(took)}; {_listed(runtime['hardware'])}"


def numbers(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested results under slash names."""
    found: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


def decision_line(made: Mapping[str, Any]) -> str:
    """The last line of an entry."""
    by = f"a person, {made['at']}" if made["by"] == "person" else f"by the {made['by']}"
    return f"- decision: **{made['verdict']}**, {made['because']} ({by})"


def entry(record: Mapping[str, Any]) -> str:
    """One run as Markdown: header, data, model, runtime, results, decision."""
    header = record["header"]
    code = header["code"]
    commit = f"{code['commit'][:12]}{' with local changes' if code['dirty'] else ''}" if "commit" in code else "no git"
    lines = [f"### {header['stage']} `{header['run_id']}`, {header['began_at']}, {record['status']}", ""]
    lines += [
        f"- code: {commit}, branch {code.get('branch') or 'none'}, identity {(code.get('identity') or 'none')[:12]}; "
        f"`{' '.join(header['command']) or 'no command'}`"
    ]
    lines += [*_data(record), *_model(record), *_contract(record), _runtime(record)]
    results = record.get("results") or {}
    shown = [f"{name} {value:.4g}" for name, value in numbers(results).items()]
    more = f" and {len(shown) - MOST_NUMBERS} more" if len(shown) > MOST_NUMBERS else ""
    lines += [f"- results: {', '.join(shown[:MOST_NUMBERS])}{more}"] if shown else []
    lines += [f"- curves: `{results['curves']}`"] if results.get("curves") else []
    lines += [f"- error: {record['error'].splitlines()[0]}"] if record.get("error") else []
    lines += [
        f"- accepted: code {one['to'][:12]} for {one['from'][:12]}, {one['because']} ({one['compared']}; {one['at']})"
        for one in record.get("accepted") or []
    ]
    made = record.get("decision") or {"verdict": "open", "because": "the run is not finished", "by": "program"}
    return "\n".join([*lines, decision_line(made)])


# ---- LOG.md -------------------------------------------------------------------------------------------------------


def _entries(text: str) -> dict[str, str]:
    """Entries of the marked part by run id."""
    if BEGIN not in text or END not in text:
        return {}
    inside = text.split(BEGIN, 1)[1].split(END, 1)[0]
    places = list(HEADING.finditer(inside))
    ends = [match.start() for match in places[1:]] + [len(inside)]
    return {match[2]: inside[match.start() : end].strip() for match, end in zip(places, ends, strict=True)}


def rendered(text: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The text of LOG.md with the marked part brought up to date, newest run first; it is added where there is none."""
    known = _entries(text)
    for record in records:
        made = BY_PERSON.search(known.get(record["header"]["run_id"], ""))
        if made and (record.get("decision") or {}).get("by") != "person":
            judged = {"verdict": made[1], "because": made[2], "by": "person", "at": made[3]}
            record = {**record, "decision": judged}
        known[record["header"]["run_id"]] = entry(record)
    newest = sorted(known.values(), key=lambda part: part.splitlines()[0].split("`, ")[-1], reverse=True)
    part = "\n\n".join([BEGIN, "## Runs", *newest, END])
    if BEGIN in text and END in text:
        return text.split(BEGIN, 1)[0] + part + text.split(END, 1)[1]
    return text.rstrip("\n") + f"\n\n{part}\n"


def decide(records: Sequence[tuple[Path, dict[str, Any]]], run: str, verdict: str, because: str) -> None:
    """Put a person's decision into the record of the run (its id, the beginning of it, or a stage: its newest run).

    Raises:
        StageError: no run, or several, match; or the reason is empty.
    """
    if not because.strip():
        raise StageError("reel log --decide: give the reason, --because '…'.")
    found = [item for item in records if item[1]["header"]["run_id"].startswith(run)]
    found = found or [item for item in records if item[1]["header"]["stage"] == run][-1:]
    if len(found) != 1:
        known = ", ".join(f"{item['header']['stage']} {item['header']['run_id']}" for _, item in records) or "none"
        raise StageError(f"reel log --decide {run}: {'no run' if not found else 'several runs'} of this name: {known}.")
    path, record = found[0]
    at = datetime.now(UTC).date().isoformat()
    record["decision"] = {"verdict": verdict, "because": " ".join(because.split()), "by": "person", "at": at}
    write_json(path, record)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel log", description="Write every run's record into LOG.md.")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the records, write nothing")
    parser.add_argument("--decide", nargs=2, metavar=("RUN", "keep|drop"), help="overrule the gates for a run")
    parser.add_argument("--because", default="", help="the reason of --decide")
    given = parser.parse_args(argv)
    if given.decide and given.decide[1] not in ("keep", "drop"):
        parser.error(f"--decide RUN keep or --decide RUN drop, not {given.decide[1]!r}")
    try:
        if given.decide:
            decide(read_records(), given.decide[0], given.decide[1], given.because)
        records = [record for _, record in read_records()]
        if given.only_print:
            print("\n\n".join(map(entry, records)) or "No run has a record yet.")
            return 0
        log = Path("LOG.md")
        before = log.read_text(encoding="utf-8") if log.is_file() else "# Log\n"
        log.write_text(rendered(before, records), encoding="utf-8")
    except (StageError, OSError) as error:
        print(f"log: {error}", file=sys.stderr)
        return 2
    for record in records:
        made = record.get("decision") or {}
        header = record["header"]
        print(f"{header['stage']} {header['run_id']} {record['status']}: {made.get('verdict', 'open')}")
    print(f"{len(records)} runs in LOG.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
