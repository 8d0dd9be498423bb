"""What Dagster's database keeps: of old observations the last of each asset, of old runs those that made something.

A running stage reports its progress as observations, a source its hash; Dagster has no retention for either. Staleness
and lineage read the newest observation of an asset and those that a materialization of what follows points at
(``dagster/input_event_pointer/…``): these stay, however old they are. Nor has it one for runs: a run that found nothing
to do every night, or failed, leaves its log for ever. Every materialization stays, and so does the run that made it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
import sqlalchemy as db
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from dagster_dvc.events import INPUT_POINTER

DAYS = 30
"""Observations younger than this stay."""
RUN_DAYS = 90
"""Runs younger than this stay, whatever they did."""
ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
DAY_SECONDS = 86400
AT_ONCE = 500
"""Rows that one statement removes; some databases take no more values."""


@dataclass(frozen=True)
class Purged:
    """How many observations went, or would go, and how many are kept."""

    gone: int
    kept: int


def purge_observations(instance: DagsterInstance, days: float = DAYS, *, remove: bool = True) -> Purged:
    """Remove observations older than so many days; with ``remove=False`` they are only counted.

    Runs keep their own log, where the storage keeps one for each (SQLite); it goes with the run.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return Purged(0, 0)
    events, before = (
        SqlEventLogStorageTable,
        datetime.fromtimestamp(time.time() - days * DAY_SECONDS, UTC).replace(tzinfo=None),
    )
    observed = events.c.dagster_event_type == DagsterEventType.ASSET_OBSERVATION.value
    needed = set(_pointed_at(instance))
    with storage.index_connection() as connection:
        count = connection.execute(db.select(db.func.count()).where(observed)).scalar() or 0
        newest = db.select(db.func.max(events.c.id)).where(observed).group_by(events.c.asset_key)
        old = db.select(events.c.id).where(observed, events.c.timestamp < before, events.c.id.not_in(newest))
        going = [number for (number,) in connection.execute(old) if number not in needed]
        for start in range(0, len(going) if remove else 0, AT_ONCE):
            part = going[start : start + AT_ONCE]
            connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(part)))
            connection.execute(events.delete().where(events.c.id.in_(part)))
    return Purged(len(going), count - len(going))


def purge_runs(instance: DagsterInstance, days: float = RUN_DAYS) -> int:
    """Remove runs, with their logs, that ended so many days ago and of which no asset has an event; returns how many.

    Where every old observation is to go, :func:`purge_observations` comes before.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    before = datetime.fromtimestamp(time.time() - days * DAY_SECONDS, UTC)
    asked = dg.RunsFilter(statuses=ENDED, updated_before=before)
    old = [record.dagster_run.run_id for record in instance.get_run_records(asked)]
    events = SqlEventLogStorageTable
    kinds = (DagsterEventType.ASSET_MATERIALIZATION.value, DagsterEventType.ASSET_OBSERVATION.value)
    needed: set[str] = set()
    with storage.index_connection() as connection:
        for start in range(0, len(old), AT_ONCE):
            of_these = events.c.run_id.in_(old[start : start + AT_ONCE])
            asked_for = db.select(events.c.run_id).where(of_these, events.c.dagster_event_type.in_(kinds)).distinct()
            needed |= {run for (run,) in connection.execute(asked_for)}
    going = [run for run in old if run not in needed]
    for run in going:
        instance.delete_run(run)
    return len(going)


def _pointed_at(instance: DagsterInstance) -> Iterator[int]:
    """Storage ids of the events that any materialization names as its input."""
    for key in instance.all_asset_keys():
        cursor, has_more = None, True
        while has_more:
            page = instance.fetch_materializations(key, limit=AT_ONCE, cursor=cursor)
            cursor, has_more = page.cursor, page.has_more
            for record in page.records:
                tags = (record.asset_materialization.tags if record.asset_materialization else None) or {}
                for name, value in tags.items():
                    if name.startswith(INPUT_POINTER) and value.isdecimal():
                        yield int(value)


def build_history_sensor(name: str = "forget_observations", days: float = DAYS) -> dg.SensorDefinition:
    """Removes old observations, and old runs that made nothing, once a day. It starts no run."""

    @dg.sensor(
        name=name,
        minimum_interval_seconds=DAY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Removes observations older than {days:g} days, but the newest and those that lineage needs; and "
        f"runs that ended {RUN_DAYS} days ago without making anything.",
    )
    def forget(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        found = purge_observations(context.instance, days)
        runs = purge_runs(context.instance)
        return dg.SkipReason(
            f"{found.gone} observations older than {days:g} days removed, {found.kept} kept; {runs} runs removed that "
            f"made nothing and ended {RUN_DAYS} days ago"
        )

    return forget
