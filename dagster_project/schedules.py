"""Refreshing by the clock. Shipped stopped: start them in the web interface under Automation."""

from collections.abc import Mapping

import dagster as dg

from dagster_project.jobs import Job

PLANS = (
    (
        "nightly_data_refresh",
        "refresh_data",
        "0 3 * * *",
        "Every night at three o'clock UTC: bring what REEL_INCOMING_URL holds, process what is new in the data.",
    ),
    (
        "weekly_retraining",
        "everything",
        "0 4 * * 0",
        "Every Sunday at four o'clock UTC: bring the whole lineage up to date.",
    ),
)


def build_schedules(jobs: Mapping[str, Job]) -> list[dg.ScheduleDefinition]:
    """The schedules whose jobs exist. A run in which nothing changed costs a second or two a stage."""
    return [
        dg.ScheduleDefinition(
            name=name,
            job=jobs[job],
            cron_schedule=cron,
            description=text,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
        for name, job, cron, text in PLANS
        if job in jobs
    ]
