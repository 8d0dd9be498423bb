"""Dagster over the toy project, in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from dagster_dvc.assets import dvc_assets, dvc_problems, dvc_sources
from dagster_dvc.project import DvcProject
from dagster_dvc.resource import DvcResource
from dagster_dvc.translator import DvcTranslator

RESOURCE = DvcResource(grace_seconds=3, busy_retries=60, busy_wait_seconds=1, observe_every_seconds=0.2)


def definitions(root: Path, translator: DvcTranslator | None = None, **settings: Any) -> dg.Definitions:
    """The toy project's code location, as a fresh load would see it now."""
    project = DvcProject(root)
    assets = [
        *dvc_assets(project, translator=translator, **settings),
        *dvc_sources(project, translator=translator),
        *dvc_problems(project, translator=translator),
    ]
    return dg.Definitions(assets=assets, resources={"dvc": RESOURCE})


def materialize(
    root: Path,
    instance: dg.DagsterInstance,
    *stages: str,
    run_config: Mapping[str, Any] | None = None,
    translator: DvcTranslator | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize stages (all by default) in this process; a failure is in the result."""
    loaded = definitions(root, translator)
    selection = dg.AssetSelection.assets(*stages) if stages else None
    job = dg.define_asset_job("toy", selection=selection) if selection else dg.define_asset_job("toy")
    made = dg.Definitions.merge(loaded, dg.Definitions(jobs=[job])).resolve_job_def("toy")
    return made.execute_in_process(instance=instance, raise_on_error=False, run_config=run_config)


def stale_keys(root: Path, instance: dg.DagsterInstance) -> set[str]:
    """The assets that the web interface would mark as stale or missing, after a reload."""
    graph = definitions(root).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    keys = graph.materializable_asset_keys
    return {key.to_user_string() for key in keys if resolver.get_status(key) != StaleStatus.FRESH}


def metadata(result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
    """The metadata values of one asset's materialization."""
    [event] = [
        event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(key.split("/"))
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


QUIET = [
    pytest.mark.filterwarnings("ignore:Property `OpDefinition.version` is deprecated:DeprecationWarning"),
]
"""Dagster 1.13 warns of its own code."""
