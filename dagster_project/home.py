"""Where the platform keeps its own state: ``.dagster`` in the project, made when it is first needed."""

import os
import sys
from pathlib import Path

from dagster_dvc.problem import ProjectError

ROOT = Path(__file__).resolve().parents[1]

POOL = "gpu"
INSTANCE = """\
# Made by `reel`; edit it freely, it is not written again. docs/dagster.md explains each block, and Postgres.
telemetry:
  enabled: false
nux:
  enabled: false

# One slot a pool: two runs never train on one GPU (`meta: {dagster: {pool: gpu}}`), nor run one stage twice.
concurrency:
  pools:
    granularity: op
    default_limit: 1
  runs:
    max_concurrent_runs: 4

run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  cancel_timeout_seconds: 3600  # the stage's own supervisor ends it when REEL_GRACE_SECONDS have passed, and not before
  free_slots_after_run_end_seconds: 60

run_retries:
  enabled: true
  max_retries: 0

retention:
  schedule: {purge_after_days: 90}
  sensor:
    purge_after_days: {skipped: 1, failure: 30, success: 30}
"""

QUIET = {"DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "30", "FRESHNESS_DAEMON_INTERVAL_SECONDS": "300"}
"""How often the daemon looks for runs to try again (5 in Dagster), and for freshness policies (30)."""


DATABASE = "REEL_POSTGRES_URL"
IN_POSTGRES = f"""
# History in Postgres; the address, with its password, stands in the environment only.
storage:
  postgres:
    postgres_url: {{env: {DATABASE}}}
"""


def project_root() -> Path:
    """The project to work on: ``REEL_PROJECT`` where it is set (tests), else the one around the current folder.

    That is the nearest folder upwards with a ``dvc.yaml``, as git and dvc look for theirs; one that has ``.dvc`` too
    goes before a nested pipeline file.

    Raises:
        ProjectError: there is none.
    """
    if os.environ.get("REEL_PROJECT"):
        return Path(os.environ["REEL_PROJECT"]).resolve()
    found = projects_around()
    if not found:
        raise ProjectError(f"{Path.cwd()}: no dvc.yaml here or in a folder above; change to a project's folder first")
    return next((folder for folder in found if (folder / ".dvc").is_dir()), found[0])


def projects_around() -> list[Path]:
    """The current folder and those above it that hold a ``dvc.yaml``, the nearest first; or what is set."""
    if os.environ.get("REEL_PROJECT"):
        return [Path(os.environ["REEL_PROJECT"])]
    here = Path.cwd()
    return [folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()]


def has_platform(root: Path) -> bool:
    """Whether a project has this platform among its own code, and not only DVC files."""
    return (root / "dagster_project" / "cli.py").is_file()


def of_elsewhere(root: Path) -> str | None:
    """A line where it could surprise whose code works on the project: another checkout's; None where it is its own."""
    if root == ROOT or os.environ.get("REEL_PROJECT"):
        return None
    return f"works on {root}, with the code of {ROOT}"


def dagster_home(root: Path) -> Path:
    """The instance folder of a project, with its ``dagster.yaml``; an existing one is left as it is."""
    home = Path(os.environ.get("DAGSTER_HOME") or root / ".dagster")
    home.mkdir(parents=True, exist_ok=True)
    file = home / "dagster.yaml"
    if not file.exists():
        file.write_text(INSTANCE + (IN_POSTGRES if os.environ.get(DATABASE) else ""), encoding="utf-8")
    _check_database(file)
    return home


def _check_database(file: Path) -> None:
    """What the environment says of the database, and what `dagster.yaml` says of it, must fit.

    Raises:
        ProjectError: one is without the other, or the package for it is missing.
    """
    import importlib.util  # here: no other command waits for it

    told, text = bool(os.environ.get(DATABASE)), file.read_text(encoding="utf-8")
    if not told and DATABASE in text:
        raise ProjectError(
            f"{file}: its history is at {DATABASE}, which is not set: postgresql+psycopg2://user:…@host/db"
        )
    if told and "storage:" not in text:
        raise ProjectError(f"{DATABASE} is set, but {file} was made without it; add to it:{IN_POSTGRES.rstrip()}")
    if told and importlib.util.find_spec("dagster_postgres") is None:
        raise ProjectError(f"{DATABASE} is set: pip install 'reelgraph[postgres]'")


def lacking(home: Path) -> str | None:
    """A line where a ``dagster.yaml`` of an earlier version ends the patience with a stage that saves; else None."""
    import yaml

    file = home / "dagster.yaml"
    try:
        monitoring = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("run_monitoring") or {}
        if not monitoring.get("enabled") or "cancel_timeout_seconds" in monitoring:
            return None
    except (OSError, ValueError, AttributeError, yaml.YAMLError):  # Dagster itself says what is wrong with it
        return None
    return (
        f"{file}: run_monitoring has no cancel_timeout_seconds: Dagster gives a run up 180 s after a stop, although a "
        "stage may save for longer; add `cancel_timeout_seconds: 3600` to that block."
    )


def open_gpu_pool() -> int:
    """Give the pool ``gpu`` a slot per GPU, or two where there is none, unless it is set; returns its slots."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        pools = instance.event_log_storage.get_pool_limits()
        known = {pool.name: pool.limit for pool in pools if not pool.from_default}
        if POOL not in known:
            slots = _counted("gpus") or 2
            instance.event_log_storage.set_concurrency_slots(POOL, slots)
            known[POOL] = slots
        return known[POOL]


def jobs() -> int:
    """Stages side by side: ``REEL_JOBS``, else two; one where there is one core."""
    stated = os.environ.get("REEL_JOBS", "")
    return int(stated) if stated.isdecimal() and int(stated) else min(2, _counted("cores") or 2)


def _counted(what: str) -> int:
    """``cores`` or ``gpus`` of this machine, as the launcher counts them; which a stage gets is for it to say."""
    import subprocess

    command = [sys.executable, "-m", "pipelines.machine", what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdecimal() else 0


def entry(address: str, is_shared: bool) -> str:
    """The address to open; on a shared machine, or where ``REEL_UI_TOKEN`` is set, with the token.

    The token is that variable's value, else a new one for this start. It is handed to the web server through the
    variable: command lines can be read by everyone on a machine.
    """
    import secrets  # here: no other command waits for it

    from dagster_project.own_page import TOKEN

    if is_shared:
        os.environ.setdefault(TOKEN, secrets.token_urlsafe(24))
    return f"{address}/?token={os.environ[TOKEN]}" if os.environ.get(TOKEN) else address


def environment(root: Path) -> dict[str, str]:
    """The environment of every process that the platform starts: instance and project, and a quiet daemon."""
    return {
        **{name: os.environ.get(name, seconds) for name, seconds in QUIET.items()},
        "DAGSTER_HOME": str(dagster_home(root)),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "REEL_PROJECT": str(root),
    }
