"""Dagster assets from a DVC project: one operation per stage, one asset per data output, nothing described twice."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from dagster_dvc.checks import check_specs
from dagster_dvc.graph import chains
from dagster_dvc.lock import read_lock
from dagster_dvc.meta import stated_seconds
from dagster_dvc.names import identifier
from dagster_dvc.project import DvcProject, Problem, ProjectError, Stage
from dagster_dvc.resource import DvcResource
from dagster_dvc.status import source_version
from dagster_dvc.translator import Assets, DvcTranslator, known_beta
from dagster_dvc.versions import code_version, lock_code_version


def dvc_assets(
    project: DvcProject,
    *,
    select: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    translator: DvcTranslator | None = None,
    retry_policy: dg.RetryPolicy | None = None,
) -> list[dg.AssetsDefinition]:
    """One `multi_asset` per selected stage, which materializes it with ``dvc repro --single-item`` (resource ``dvc``).

    `select` and `exclude` are words of `DvcProject.select`: stage names, patterns, ``group:<name>``, ``+train``.

    Raises:
        ProjectError: a word selects nothing.
    """
    assets = Assets(project, translator)
    chosen = project.select(select, exclude, aside=True)
    for problem in assets.problems:
        dg.get_dagster_logger("dvc").warning(problem)
    length = chains(project.upstream, stated_seconds(project.stages.values()))
    made = [_stage_assets(assets, project.stages[name], retry_policy, round(length[name])) for name in chosen]
    project.hashes.save()
    return made


def dvc_sources(project: DvcProject, *, translator: DvcTranslator | None = None) -> list[dg.SourceAsset]:
    """The data that stages read and no stage makes, each observable: its data version is DVC's hash of it."""
    assets = Assets(project, translator)
    return [_source(assets, path) for path in project.sources]


def dvc_problems(project: DvcProject, *, translator: DvcTranslator | None = None) -> list[dg.AssetSpec]:
    """An asset in the group ``broken`` for everything in dvc.yaml that DVC could not resolve, with file and line."""
    return [_broken(project, number, problem) for number, problem in enumerate(project.problems)]


def dvc_keys(
    project: DvcProject, words: Sequence[str], *, translator: DvcTranslator | None = None
) -> list[dg.AssetKey]:
    """The asset keys of the stages that some words select."""
    assets = Assets(project, translator)
    return [key for name in project.select(words) for key in assets.of_stage(project.stages[name]).values()]


def build_dvc_asset_selection(
    project: DvcProject, select: Sequence[str], *, translator: DvcTranslator | None = None
) -> dg.AssetSelection:
    """A Dagster selection from stage names, patterns, groups and pluses."""
    return dg.AssetSelection.assets(*dvc_keys(project, select, translator=translator))


def get_asset_key_for_stage(project: DvcProject, name: str, *, translator: DvcTranslator | None = None) -> dg.AssetKey:
    """The asset key of a stage with one data output; of the first output where there are several."""
    stage = project.stage(name)
    return next(iter(Assets(project, translator).of_stage(stage).values()))


def build_schedule_from_dvc_selection(
    project: DvcProject, select: Sequence[str], *, name: str, cron_schedule: str, **settings: Any
) -> dg.ScheduleDefinition:
    """A schedule (stopped until started) that brings the selected stages up to date; unchanged ones are reused."""
    translator = settings.pop("translator", None)
    selection = build_dvc_asset_selection(project, select, translator=translator)
    return dg.ScheduleDefinition(name=name, cron_schedule=cron_schedule, target=selection, **settings)


def _stage_assets(
    assets: Assets, stage: Stage, retry_policy: dg.RetryPolicy | None, priority: int
) -> dg.AssetsDefinition:
    translator, project = assets.translator, assets.project
    version, deps = _version(project, stage), list(assets.upstream(stage))
    specs = [
        translator.get_asset_spec(project, stage, out, deps, version).replace_attributes(key=key)
        for out, key in assets.of_stage(stage).items()
    ]

    @dg.multi_asset(
        name=assets.operations[stage.name],
        specs=specs,
        check_specs=check_specs(assets, stage),
        can_subset=True,
        pool=translator.get_pool(stage),
        retry_policy=translator.get_retry_policy(stage) or retry_policy,
        config_schema={"force": dg.Field(bool, default_value=False, description="Run even if nothing changed.")},
        op_tags={"dvc/stage": identifier(stage.name), "dagster/priority": str(priority)},
    )
    def run_stage(context: dg.AssetExecutionContext, dvc: DvcResource) -> Iterator[Any]:
        yield from dvc.repro(context, assets, stage, force=context.op_execution_context.op_config["force"])

    return run_stage


def _version(project: DvcProject, stage: Stage) -> str:
    """The code version: what stands on disk; of a frozen stage what made its outputs, as DVC looks at no more."""
    if stage.frozen:
        with contextlib.suppress(ProjectError):
            locked = read_lock(project).get(stage.name)
            if locked is not None and locked.cmd == stage.cmd:
                return lock_code_version(project, stage, locked)
    return code_version(project, stage)


def _source(assets: Assets, path: str) -> Any:
    def observe() -> dg.DataVersion:
        now = Assets(DvcProject(assets.project.root), assets.translator)
        version = source_version(now.project, path)
        now.project.hashes.save()
        return dg.DataVersion(version)

    key = assets.sources[path]
    with known_beta():
        return dg.observable_source_asset(
            key=key,
            group_name="sources",
            description=f"Data that no stage makes: `{path}`. Observed by content hash.",
            metadata={"dvc/path": dg.MetadataValue.path(str(assets.project.root / path))},
            tags={"dagster/kind/dvc": ""},
        )(observe)


def _broken(project: DvcProject, number: int, problem: Problem) -> dg.AssetSpec:
    known = problem.stage is not None and problem.stage not in project.stages
    name = identifier(problem.stage) if known and problem.stage else f"dvc_yaml_problem_{number + 1}"
    return dg.AssetSpec(
        name,
        group_name="broken",
        description=f"Not loaded. {problem}",
        kinds={"dvc"},
        metadata={"dvc/problem": str(problem)},
    )
