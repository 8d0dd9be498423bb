"""All assets of the project, derived from dvc.yaml. A new stage needs no Python: it appears when dvc.yaml names it."""

from typing import Any

import dagster as dg

from assets.translator import ReelTranslator
from dagster_dvc.assets import dvc_assets, dvc_problems, dvc_sources
from dagster_dvc.project import DvcProject

TRANSLATOR = ReelTranslator()
RETRIES = dg.RetryPolicy(max_retries=1, delay=5)
"""For what the machine did (a killed process); a stage that refuses its inputs is not tried again."""


def stage_assets(project: DvcProject) -> list[Any]:
    """Stages, the data they start from, and an asset for every stage that DVC cannot resolve."""
    return [
        *dvc_assets(project, translator=TRANSLATOR, retry_policy=RETRIES),
        *dvc_sources(project, translator=TRANSLATOR),
        *dvc_problems(project, translator=TRANSLATOR),
    ]
