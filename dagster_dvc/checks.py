"""Asset checks of a stage: its gates, and whether its outputs on disk are what dvc.lock says."""

from collections.abc import Iterable

import dagster as dg

from dagster_dvc.lock import read_lock
from dagster_dvc.missing import in_cache
from dagster_dvc.names import identifier
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.results import Verdicts, checks, read_metrics, verdicts
from dagster_dvc.shown import tamed, visible
from dagster_dvc.status import changed_outputs
from dagster_dvc.translator import Assets

IN_SYNC = "in_sync_with_dvc"


def check_specs(assets: Assets, stage: Stage) -> list[dg.AssetCheckSpec]:
    """One blocking check per declared gate, and the check against dvc.lock, on the stage's first asset."""
    key = next(iter(assets.of_stage(stage).values()))
    gates = [
        dg.AssetCheckSpec(identifier(check.name), asset=key, blocking=check.blocking, description=_description(check))
        for check in checks(stage)
    ]
    sync = dg.AssetCheckSpec(IN_SYNC, asset=key, description="The outputs on disk are the ones that dvc.lock records.")
    return [*gates, sync]


def gate_results(assets: Assets, stage: Stage) -> list[dg.AssetCheckResult]:
    """The verdict of every declared gate, with number and threshold."""
    key = next(iter(assets.of_stage(stage).values()))
    declared = {identifier(check.name) for check in checks(stage)}
    found = verdicts(stage, read_metrics(assets.project, stage))
    return [_result(key, gate) for gate in found if identifier(gate.name) in declared]


def undeclared_gates(assets: Assets, stage: Stage) -> list[Verdicts]:
    """Gates that the metrics file holds and dvc.yaml does not announce: they can only be logged."""
    declared = {identifier(check.name) for check in checks(stage)}
    found = verdicts(stage, read_metrics(assets.project, stage))
    return [gate for gate in found if identifier(gate.name) not in declared]


def sync_result(assets: Assets, stage: Stage) -> dg.AssetCheckResult:
    """Whether the stage's outputs are what dvc.lock records; also true of a stage that is stale for other reasons."""
    key = next(iter(assets.of_stage(stage).values()))
    wrong = changed_outputs(assets.project, stage)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=IN_SYNC,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"why": "; ".join(map(str, wrong)) or "the same"}
        | ({"remedy": remedy(assets.project, stage)} if wrong else {}),
    )


def remedy(project: DvcProject, stage: Stage) -> str:
    """The command that brings the recorded outputs back: from the cache, or by a run when it lacks one of them."""
    entry = read_lock(project).get(stage.name)
    kept = [out.path for out in stage.outs if out.cache]
    cached = entry and all(in_cache(project, entry.outs[path].hash) for path in kept if path in entry.outs)
    if cached:
        return f"dvc checkout {stage.name}"
    return f"dvc pull {stage.name}" if stage.frozen else f"dvc repro {stage.name}"


def _description(check: object) -> str:
    metric, low, high = (getattr(check, name) for name in ("metric", "min", "max"))
    if metric is None:
        return "A gate that the stage decides; its threshold is in the params."
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None]
    return f"{metric} {' and '.join(bounds)}"


def _result(key: dg.AssetKey, gate: Verdicts) -> dg.AssetCheckResult:
    facts: Iterable[tuple[str, object]] = (
        ("value", gate.value),
        ("threshold", gate.threshold),
        ("comparison", gate.comparison),
        ("verdict", gate.verdict),
        ("reason", gate.reason),
    )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=identifier(gate.name),
        passed=gate.verdict == "pass",
        severity=dg.AssetCheckSeverity.ERROR if gate.verdict == "fail" else dg.AssetCheckSeverity.WARN,
        metadata=tamed({name: value for name, value in facts if value not in (None, "")}),
        description=visible(str(gate)),
    )
