"""The ``meta.dagster`` block of a stage, read without Dagster: what can be used, and a line for what cannot.

A mistake takes out only what it is in: the stage is there, without the owner that is none. `complaints` says it, for
``reel check`` as for the stage's page.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_dvc import names
from dagster_dvc.project import Stage

AUTOMATIONS = ("eager", "on_missing")
MOST_LETTERS = 63
"""Of a tag's name or value in Dagster."""
TAG = re.compile(r"^[A-Za-z0-9_. -]{1,63}(/[A-Za-z0-9_.-]{1,63})?$")
TAG_VALUE = re.compile(r"^[A-Za-z0-9_.-]{0,63}$")
EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}\b\Z")
TEAM = re.compile(r"^team:.*\S")


@dataclass(frozen=True)
class Check:
    """A gate as dvc.yaml declares it: by name, or as a bound on a metric."""

    name: str
    blocking: bool = True
    metric: str | None = None
    min: float | None = None
    max: float | None = None


@dataclass
class Meta:
    """What a stage says of itself to Dagster, in a form that Dagster takes, and the mistakes in it."""

    group: str | None = None
    kinds: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    pool: str | None = None
    retries: int | None = None
    automation: str | None = None
    checks: list[Check] = field(default_factory=list)
    headline: list[str] = field(default_factory=list)
    seconds: float | None = None
    mistakes: list[str] = field(default_factory=list)


def read(stage: Stage) -> Meta:
    """The block of a stage; without one everything is empty."""
    found, block = Meta(), stage.meta.get("dagster") if isinstance(stage.meta, Mapping) else stage.meta
    if block is not None and not isinstance(block, Mapping):
        found.mistakes.append(f"meta.dagster: {block!r} is no mapping of words like group, kinds, checks")
    block = block if isinstance(block, Mapping) else {}
    if "group" in block:
        found.group = names.group(str(block["group"]))
    for key in ("kinds", "headline"):
        getattr(found, key).extend(_words(block, key, found.mistakes))
    _owners(block, found)
    _tags(block, found)
    _pool(block, found)
    _retries(block, found)
    _automation(block, found)
    _checks(block, found)
    _seconds(block, found)
    return found


def stated_seconds(stages: Iterable[Stage]) -> dict[str, float]:
    """Stage -> what it usually takes, of those that say so."""
    return {stage.name: seconds for stage in stages if (seconds := read(stage).seconds) is not None}


def complaints(stage: Stage) -> list[str]:
    """A line for every mistake, with the stage's file and line."""
    return [f"{stage.file}:{stage.line}: stage '{stage.name}': {mistake}" for mistake in read(stage).mistakes]


def _words(block: Mapping[str, Any], key: str, mistakes: list[str]) -> list[str]:
    said = block.get(key)
    if said is None or isinstance(said, list):
        return [str(one) for one in said or []]
    mistakes.append(f"meta.dagster.{key}: {said!r} is no list; write [{said}]")
    return [str(said)] if isinstance(said, str | int | float) else []


def _owners(block: Mapping[str, Any], found: Meta) -> None:
    for owner in _words(block, "owners", found.mistakes):
        if EMAIL.match(owner) or TEAM.match(owner):
            found.owners.append(owner)
        else:
            found.mistakes.append(f"meta.dagster.owners: {owner!r} is left out; write an e-mail address or team:NAME")


def _tags(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("tags") or {}
    if not isinstance(said, Mapping):
        found.mistakes.append(f"meta.dagster.tags: {said!r} is no mapping; write {{name: value}}")
        return
    for key, value in said.items():
        text = "" if value is None else "true" if value is True else "false" if value is False else str(value)
        if TAG.match(str(key)) and TAG_VALUE.match(text) and not isinstance(value, Mapping | list):
            found.tags[str(key)] = text
        else:
            found.mistakes.append(
                f"meta.dagster.tags: {key!r}: {value!r} is left out; "
                f"tags are at most {MOST_LETTERS} letters, digits, '_', '-' and '.'"
            )


def _pool(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("pool")
    if said is None or said == "":
        return
    if isinstance(said, str | int) and not isinstance(said, bool) and re.match(r"^\S+$", str(said)):
        found.pool = str(said)
    else:
        found.mistakes.append(f"meta.dagster.pool: {said!r} is no name; write one word without spaces")


def _retries(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("retries")
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        found.retries = said
    elif said is not None:
        found.mistakes.append(f"meta.dagster.retries: {said!r} is no number of tries; write 0, 1, 2 ...")


def _automation(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("automation")
    if said in AUTOMATIONS:
        found.automation = said
    elif said is not None:
        found.mistakes.append(f"meta.dagster.automation: unknown word {said!r}; use {' or '.join(AUTOMATIONS)}")


def _seconds(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("seconds")
    if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said < math.inf:
        found.seconds = float(said)
    elif said is not None:
        found.mistakes.append(
            f"meta.dagster.seconds: {said!r} is no time; write what the stage usually takes, such as 90"
        )


def _checks(block: Mapping[str, Any], found: Meta) -> None:
    said = block.get("checks") or []
    if not isinstance(said, list):
        found.mistakes.append(f"meta.dagster.checks: {said!r} is no list; write [{said}]")
        return
    for item in said:
        check = Check(item) if isinstance(item, str) and item else _bound(item)
        if check is None:
            found.mistakes.append(
                f"meta.dagster.checks: {item!r} is no gate; "
                "write a name, or {metric: NAME, min: NUMBER} or {metric: NAME, max: NUMBER}"
            )
        elif names.identifier(check.name) in {names.identifier(one.name) for one in found.checks}:
            found.mistakes.append(f"meta.dagster.checks: {check.name!r} stands there twice; give one of them a name")
        else:
            found.checks.append(check)


def _bound(item: Any) -> Check | None:
    if not isinstance(item, Mapping) or not item.get("metric"):
        return None
    bounds = {key: item[key] for key in ("min", "max") if item.get(key) is not None}
    if not bounds or not all(_is_number(bound) for bound in bounds.values()):
        return None
    name = str(item.get("name") or str(item["metric"]).replace("/", "_") + "_in_bounds")
    return Check(name, bool(item.get("blocking", True)), str(item["metric"]), **bounds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
