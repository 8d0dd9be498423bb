"""Verdicts on a codebook: each number beside a threshold from params, with the reason in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipelines.representation.params import Gates, Threshold

Gate = dict[str, Any]


def gate(name: str, value: float | None, threshold: Threshold, comparison: Literal[">=", "<="], reason: str) -> Gate:
    """One verdict: pass beyond ``warn``, warn between, fail beyond ``fail``. An undefined value warns, with its reason.

    ``threshold`` in the result is the one that decided: ``fail`` where it failed, else ``warn``.
    """
    shown: Gate = {"name": name, "comparison": comparison, "threshold": threshold.warn, "reason": reason}
    if value is None:
        return {**shown, "verdict": "warn"}
    sign = 1 if comparison == ">=" else -1
    if sign * value >= sign * threshold.warn:
        return {**shown, "value": value, "verdict": "pass"}
    if sign * value >= sign * threshold.fail:
        return {**shown, "value": value, "verdict": "warn"}
    return {**shown, "value": value, "verdict": "fail", "threshold": threshold.fail}


def over(found: list[Gate], train: int, held_out: int, queries: int, seen: int) -> list[Gate]:
    """The gates, each with the number of ``samples`` that its value is over: train samples of the classes' sizes,
    ``held_out`` queries, ``queries`` of any split, or all that were ``seen``."""
    counts = {"near_empty_share": train, "largest_share": train, "entropy_ratio": train, "rankme": queries}
    counts |= {name: held_out for name in ("retrieval_excess", "text_to_keyframes", "keyframes_to_text")}
    return [{**one, "samples": counts.get(one["name"], seen)} for one in found]


def judge(params: Gates, results: Mapping[str, Any]) -> list[Gate]:
    """All gates of a diagnostics report; those on known factors have no value where the data has no known factors."""
    occupancy, held_out = results["occupancy"], results.get("held_out", {})
    top = next((f"top{k}" for k in (5, 1, 10) if f"top{k}" in held_out), "top5")
    ranks = {
        name: found["rankme_share"]
        for name, found in results.get("collapse", {}).items()
        if name != "h" and "rankme_share" in found
    }
    lowest = min(ranks, key=lambda name: ranks[name], default=None)
    reasons = {
        "retrieval_excess": _why(results, "held_out", f"{top} of held-out queries in h, less a null codebook's"),
        "text_to_keyframes": _why(
            results, "held_out/text_to_keyframes", f"{top}: prompts retrieve, keyframes judge; less chance"
        ),
        "keyframes_to_text": _why(
            results, "held_out/keyframes_to_text", f"{top}: keyframes retrieve, prompts judge; less chance"
        ),
        "rankme": _why(
            results, "collapse", f"effective rank of {lowest or 'the features that h reads'}, share of noise's"
        ),
        "stability": _why(results, "stability", "ARI of classes over seeds, less a null codebook's"),
    }
    values = {
        "retrieval_excess": held_out.get(f"{top}_excess"),
        "text_to_keyframes": held_out.get(f"text_to_keyframes_{top}_excess"),
        "keyframes_to_text": held_out.get(f"keyframes_to_text_{top}_excess"),
        "rankme": None if lowest is None else ranks[lowest],
        "stability": results.get("stability", {}).get("ari_excess"),
    }
    share = occupancy["near_empty_share"]
    found = [
        gate("near_empty_share", share, params.near_empty_share, "<=", "classes with few train samples / K"),
        gate("largest_share", occupancy["largest_share"], params.largest_share, "<=", "samples in the fullest class"),
        gate(
            "entropy_ratio", occupancy.get("entropy_ratio"), params.entropy_ratio, ">=", "exp(entropy) / K; 1 is even"
        ),
    ]
    found += [gate(name, values[name], getattr(params, name), ">=", reason) for name, reason in reasons.items()]
    for name in ("identity", "motion"):
        agreement = results.get("agreement", {}).get(name)
        value = None if agreement is None else agreement["nmi"] - agreement["nmi_chance"]
        reason = _why(results, f"agreement/{name}", f"NMI with the clips' {name}, less chance")
        found.append(gate(f"agreement_{name}", value, getattr(params.agreement, name), ">=", reason))
    return found


def _why(results: Mapping[str, Any], block: str, reason: str) -> str:
    unavailable = results.get("unavailable", {})
    missing = unavailable.get(block) or unavailable.get(block.partition("/")[0])
    return f"{reason}: not available, {missing}" if missing else reason
