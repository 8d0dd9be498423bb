"""A DVC project as a Dagster component: the code location is four lines of YAML, no Python.

::

    type: dagster_dvc.component.DvcProjectComponent
    attributes:
      project: ../../..                      # the folder with dvc.yaml, from here
      exclude: [scratch]                     # words of `DvcProject.select`
      translation: {group_name: "{{ stage.name }}", tags: {team: video}}
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import pydantic
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver

from dagster_dvc.assets import dvc_assets, dvc_problems, dvc_sources
from dagster_dvc.project import DvcProject, Out, Stage
from dagster_dvc.resource import DvcResource
from dagster_dvc.sensors import build_lock_sensor, build_reload_sensor
from dagster_dvc.translator import DvcTranslator

Translation = Annotated[TranslationFn[Stage], TranslationFnResolver[Stage](lambda stage: {"stage": stage})]


class TranslatedByYaml(DvcTranslator):
    """`DvcTranslator`, then what ``translation`` in the component's YAML says; ``{{ stage }}`` is the `Stage`."""

    def __init__(self, translation: TranslationFn[Stage]) -> None:
        self._translation = translation

    def get_asset_key(self, stage: Stage, out: Out | None) -> dg.AssetKey:
        """The key of the translated asset: edges and the asset itself agree on it."""
        return self._translation(dg.AssetSpec(super().get_asset_key(stage, out)), stage).key

    def get_asset_spec(
        self, project: DvcProject, stage: Stage, out: Out | None, deps: list[dg.AssetKey], code_version: str | None
    ) -> dg.AssetSpec:
        """The asset of `DvcTranslator`, translated; its key is `get_asset_key`'s, translated once."""
        spec = super().get_asset_spec(project, stage, out, deps, code_version)
        return self._translation(spec, stage).replace_attributes(key=spec.key)


class ScaffoldParams(pydantic.BaseModel):
    """What ``dg scaffold defs`` may be told."""

    project: str = "."


class DvcProjectScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes the YAML of a new `DvcProjectComponent`."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """`ScaffoldParams`: ``project``, from where the command is given."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """A ``defs.yaml`` that reaches the project by a relative path, so that the repository can move."""
        project, here = Path(request.params.project).resolve(), request.target_path.resolve()
        dg.scaffold_component(request, {"project": os.path.relpath(project, here)})


@dg.scaffold_with(DvcProjectScaffolder)
@dataclass
class DvcProjectComponent(dg.Component, dg.Resolvable):
    """The assets, sources, sensors and the resource ``dvc`` of one DVC project; one project per code location.

    Attributes:
        project: the folder with ``dvc.yaml``; a relative one starts at the component's own folder.
        select, exclude: words of `DvcProject.select`.
        translation: asset attributes laid over those of `DvcTranslator`.
        sensors: whether the lock sensor and the reload sensor come with it.
        resource: settings of `DvcResource`.
    """

    project: str
    select: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    translation: Translation | None = None
    sensors: bool = True
    resource: dict[str, Any] = field(default_factory=dict)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions as they are on disk now.

        Raises:
            ProjectError: there is no DVC project, or ``dvc.yaml`` cannot be read and never could.
        """
        project = DvcProject((context.path / self.project).resolve())
        translator = self.translator
        sensors = [build_lock_sensor(project, translator=translator), build_reload_sensor(project)]
        return dg.Definitions(
            assets=[
                *dvc_assets(project, select=self.select, exclude=self.exclude, translator=translator),
                *dvc_sources(project, translator=translator),
                *dvc_problems(project, translator=translator),
            ],
            sensors=sensors if self.sensors else [],
            resources={"dvc": DvcResource(**self.resource)},
        )

    @property
    def translator(self) -> DvcTranslator:
        """How stages appear. Override it in a subclass for what YAML cannot say."""
        return TranslatedByYaml(self.translation) if self.translation else DvcTranslator()
