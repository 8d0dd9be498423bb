"""From dvc.lock to Dagster events: what a stage's run says, and what to report of runs made outside Dagster.

dvc.lock is the truth and Dagster's database a cache of it. `reconcile` brings the second up to date with the first: on
an empty instance it reports every recorded stage, later only what differs. An event carries the output's hash as data
version, the code version of the recorded run, and per input the hash that was read with a pointer to the event that
reported it, so that Dagster shows the same staleness and provenance as for runs of its own.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterInstance
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dagster_dvc import previous
from dagster_dvc.checks import IN_SYNC, gate_results
from dagster_dvc.lock import Entry, read_lock
from dagster_dvc.project import Out, Stage
from dagster_dvc.running import running
from dagster_dvc.shown import tamed
from dagster_dvc.status import changed_outputs, source_version
from dagster_dvc.translator import Assets
from dagster_dvc.versions import lock_code_version

DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
USER_PROVIDED = "dagster/data_version_is_user_provided"
INPUT_VERSION = "dagster/input_data_version/"
INPUT_POINTER = "dagster/input_event_pointer/"
PICTURE = "picture/"
"""How names of a translator's pictures begin, the only metadata of a size that counts."""


def data_version(stage: Stage, out: Out | None, entry: Entry) -> str:
    """DVC's content hash of the output; for a stage without data outputs, of its metrics and plots together."""
    if out is not None:
        return entry.outs[out.path].hash or "unknown" if out.path in entry.outs else "unknown"
    return "+".join(sorted(locked.hash or "unknown" for locked in entry.outs.values())) or "none"


def result_metadata(
    instance: DagsterInstance, assets: Assets, stage: Stage, out: Out | None, entry: Entry, **facts: Any
) -> dict[str, Any]:
    """What to attach to a materialization: the translator's metadata, what is new in it, and how it came about.

    Pictures are stored once for each data version: a stage that is looked at again a hundred times makes the database
    no larger by a hundred times its pictures.
    """
    new = previous.changed(instance, assets.of_stage(stage)[out], previous.recorded(assets.project, stage, out, entry))
    told = assets.translator.get_result_metadata(assets.project, stage, out, entry)
    found = tamed({**told, **new, **facts}, whole=(PICTURE, previous.RECORDED))
    before = instance.get_latest_materialization_event(assets.of_stage(stage)[out])
    tags = (before.asset_materialization.tags if before and before.asset_materialization else None) or {}
    shown = [name for name in found if name.startswith(PICTURE)]
    if not shown or tags.get(DATA_VERSION) != data_version(stage, out, entry):
        return found
    note = "as before: they stand at the first materialization of this data version"
    return {**{name: value for name, value in found.items() if name not in shown}, "pictures": note}


def input_versions(assets: Assets, stage: Stage, lock: Mapping[str, Entry]) -> dict[dg.AssetKey, str]:
    """The data version of every input as the stage's recorded run read it; one that it did not read is not there.

    An input that dvc.yaml names since then would else be reported as read, and the stage as made anew.
    """
    versions = {}
    for key, (path, maker, out) in assets.upstream(stage).items():
        read = lock[stage.name].deps.get(path)
        if read is None:
            continue
        if maker is None or (out is not None and path == out.path):
            versions[key] = read.hash or "unknown"
        elif maker.name in lock:
            versions[key] = data_version(maker, out, lock[maker.name])
    return versions


def observe_sources(
    instance: DagsterInstance, assets: Assets, versions: Mapping[str, str] | None = None
) -> list[dg.AssetKey]:
    """Report the content hash of every source that changed since it was last observed.

    `versions` are hashes by path that somebody has just computed; without them they are computed here.
    """
    changed = []
    for path in assets.project.sources:
        found = versions.get(path) if versions is not None else source_version(assets.project, path)
        if found is not None and _observed(instance, assets.sources[path]) != found:
            _observe(instance, assets.sources[path], found)
            changed.append(assets.sources[path])
    assets.project.hashes.save()
    return changed


def _observed(instance: DagsterInstance, key: dg.AssetKey) -> str | None:
    record = next(iter(instance.fetch_observations(key, limit=1).records), None)
    tags = (record.asset_observation.tags if record and record.asset_observation else None) or {}
    return tags.get(DATA_VERSION)


def _observe(instance: DagsterInstance, key: dg.AssetKey, version: str) -> None:
    tags = {DATA_VERSION: version, USER_PROVIDED: "true"}
    instance.report_runless_asset_event(dg.AssetObservation(key, metadata={"dvc/hash": version}, tags=tags))


def _observe_as_recorded(instance: DagsterInstance, assets: Assets, lock: Mapping[str, Entry]) -> None:
    """Report what the recorded runs read of sources that were never observed, so that events can point at it."""
    for path, key in assets.sources.items():
        read = [entry.deps[path].hash for entry in lock.values() if path in entry.deps]
        if read and read[-1] and _observed(instance, key) is None:
            _observe(instance, key, read[-1])


def reconcile(instance: DagsterInstance, assets: Assets, only: str | None = None) -> list[dg.AssetKey]:
    """Report what dvc.lock knows and the instance does not, producers first; returns the assets reported."""
    lock = read_lock(assets.project)
    _observe_as_recorded(instance, assets, lock)
    reported = []
    for stage in assets.project.stages.values():
        if stage.name not in lock or only not in (None, stage.name):
            continue
        inputs = input_versions(assets, stage, lock)
        for out, key in assets.of_stage(stage).items():
            tags = {
                DATA_VERSION: data_version(stage, out, lock[stage.name]),
                CODE_VERSION: lock_code_version(assets.project, stage, lock[stage.name]),
                **{INPUT_VERSION + up.to_user_string(): version for up, version in inputs.items()},
            }
            if _latest_tags(instance, key, tags) == tags:
                continue
            pointers = {
                INPUT_POINTER + up.to_user_string(): _pointer(instance, up, version) for up, version in inputs.items()
            }
            facts = {
                "dvc/outcome": "recorded by DVC",
                "dvc/lock_read_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            metadata = result_metadata(instance, assets, stage, out, lock[stage.name], **facts)
            event = dg.AssetMaterialization(key, metadata=metadata, tags={**tags, **pointers, USER_PROVIDED: "true"})
            instance.report_runless_asset_event(event)
            reported.append(key)
        if only is None and set(assets.of_stage(stage).values()) & set(reported):
            report_checks(instance, assets, stage)
    return reported


def report_checks(instance: DagsterInstance, assets: Assets, stage: Stage) -> None:
    """Report the verdicts of a stage that ran outside Dagster: its gates."""
    if stage.name in running(assets.project):
        return
    for result in gate_results(assets, stage):
        if result.asset_key is not None and result.check_name is not None:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=result.asset_key,
                    check_name=result.check_name,
                    passed=result.passed,
                    severity=result.severity,
                    description=result.description,
                    metadata=result.metadata,
                )
            )


def report_sync(
    instance: DagsterInstance,
    assets: Assets,
    wrong: Mapping[str, list[str]] | None = None,
    renew: Collection[str] = (),
) -> list[dg.AssetKey]:
    """Report the in-sync check of stages whose outputs were deleted or edited by hand, or came back.

    `wrong` says by stage what a look has found, and all that was never reported is; without it outputs are hashed here.
    Stages of `renew` are reported in any case. One that is running has no outputs: it is left alone.
    """
    lock, changed = read_lock(assets.project), []
    waits = unsettled(instance, assets)
    for stage in assets.project.stages.values():
        if stage.name not in lock or stage.name in waits:
            continue
        key = next(iter(assets.of_stage(stage).values()))
        was = _last_sync(instance, key)
        found = wrong.get(stage.name, []) if wrong is not None else changed_outputs(assets.project, stage)
        known = was is not None or wrong is None
        if known and stage.name not in renew and bool(found) == (was == AssetCheckExecutionRecordStatus.FAILED):
            continue
        why = "; ".join(map(str, found)) or "the same"
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=IN_SYNC,
                passed=not found,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"why": dg.TextMetadataValue(why)},
            )
        )
        changed.append(key)
    return changed


def unsettled(instance: DagsterInstance, assets: Assets) -> set[str]:
    """Stages that are running, in a terminal or in Dagster: what lies at their outputs says nothing yet."""
    planned = AssetCheckExecutionRecordStatus.PLANNED
    keys = {stage.name: next(iter(assets.of_stage(stage).values())) for stage in assets.project.stages.values()}
    return {*running(assets.project), *(name for name, key in keys.items() if _last_sync(instance, key) == planned)}


def _last_sync(instance: DagsterInstance, key: dg.AssetKey) -> AssetCheckExecutionRecordStatus | None:
    check = dg.AssetCheckKey(key, IN_SYNC)
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).get(check)
    return record.status if record else None


def _latest_tags(instance: DagsterInstance, key: dg.AssetKey, wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags of the newest materialization, as far as they matter here."""
    event = instance.get_latest_materialization_event(key)
    tags = (event.asset_materialization.tags if event and event.asset_materialization else None) or {}
    return {name: value for name, value in tags.items() if name in wanted}


def _pointer(instance: DagsterInstance, key: dg.AssetKey, version: str) -> str:
    """Storage id of the event that reported this version of an input; "NULL" where there is none."""
    for fetch in (instance.fetch_materializations, instance.fetch_observations):
        for record in fetch(key, limit=20).records:
            event = record.asset_materialization or record.event_log_entry.asset_observation
            if event and (event.tags or {}).get(DATA_VERSION) == version:
                return str(record.storage_id)
    return "NULL"
