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


def judge(params: Gates, results: Mapping[str, Any]) -> list[Gate]:
    """All gates of a diagnostics report; those on known factors have no value where the data has no known factors."""
    occupancy, retrieval = results["occupancy"], results.get("retrieval", {})
    gain = next((retrieval[name] for name in ("top5_gain", "top1_gain") if name in retrieval), None)
    found = [
        gate("non_empty_share", occupancy["non_empty_share"], params.non_empty_share, ">=", "classes with samples / K"),
        gate("largest_share", occupancy["largest_share"], params.largest_share, "<=", "samples in the fullest class"),
        gate("entropy_ratio", occupancy["entropy_ratio"], params.entropy_ratio, ">=", "exp(entropy) / K; 1 is even"),
        gate("retrieval_gain", gain, params.retrieval_gain, ">=", _why(results, "retrieval", "top-5 hits / chance")),
        gate("rankme", results["collapse"]["rankme"], params.rankme, ">=", "effective rank of the encoder's features"),
        gate(
            "stability",
            results.get("stability", {}).get("ari"),
            params.stability,
            ">=",
            _why(results, "stability", "ARI of classes over seeds"),
        ),
    ]
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
