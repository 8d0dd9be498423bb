"""How a stage of dvc.yaml appears in Dagster. Subclass `DvcTranslator` and override what should look different.

Everything a stage may say about itself to Dagster stands in its ``meta.dagster`` block, which is no part of the stage's
identity (editing it makes nothing stale)::

    meta:
      dagster:
        group: generation          # default: the foreach or matrix name, else "default"
        kinds: [pytorch]           # at most two; "dvc" is always there
        owners: ["team:research"]
        tags: {domain: training}
        pool: gpu                  # stages of a pool share its slots; default: one slot for the stage
        retries: 2
        automation: eager          # or on_missing; default: none
        checks: [has_no_collapse, {metric: psnr, min: 25}]
        headline: [psnr]
        optional: true             # no part of "everything" until it was named once
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import dagster as dg

from dagster_dvc import meta, names
from dagster_dvc.lock import Entry
from dagster_dvc.names import identifier
from dagster_dvc.project import DvcProject, Out, Stage
from dagster_dvc.results import headline, numbers, read_metrics
from dagster_dvc.shown import block

MOST_NUMBERS = 30
"""Of one materialization; a page with hundreds of plots shows nothing."""
AUTOMATION = {"eager": dg.AutomationCondition.eager, "on_missing": dg.AutomationCondition.on_missing}


class DvcTranslator:
    """Names, groups and metadata of the assets that stages become. `out` is None for a stage without data outputs."""

    def get_asset_key(self, stage: Stage, out: Out | None) -> dg.AssetKey:
        """The stage's name; with several data outputs, the name and the output's last path component."""
        parts = stage.name.replace("dvc.yaml:", "").replace("@", "/").split("/")
        if out is not None and len(stage.data_outs) > 1:
            parts.append(PurePosixPath(out.path).name)
        return dg.AssetKey([names.word(part) for part in parts if part])

    def get_source_key(self, path: str) -> dg.AssetKey:
        """The key of data that no stage makes: its path, in letters that Dagster takes."""
        parts = [names.word(part) for part in PurePosixPath(path).parts if part not in {"/", ".."}]
        return dg.AssetKey(parts or ["source"])

    def get_group_name(self, stage: Stage) -> str | None:
        """``meta.dagster.group``, else the name of the foreach or matrix the stage comes from."""
        return meta.read(stage).group or (names.group(stage.group) if stage.group else None)

    def get_description(self, stage: Stage, out: Out | None) -> str:
        """What the stage says of itself, and how to make it without Dagster."""
        return f"{stage.desc or 'A DVC stage.'}\n\nMake it: `dvc repro {stage.name}`"

    def get_kinds(self, stage: Stage, out: Out | None) -> set[str]:
        """ "dvc" and up to two kinds of ``meta.dagster.kinds``."""
        return {"dvc", *meta.read(stage).kinds[:2]}

    def get_owners(self, stage: Stage) -> list[str]:
        """``meta.dagster.owners``: e-mail addresses or ``team:<name>``."""
        return meta.read(stage).owners

    def get_tags(self, stage: Stage) -> dict[str, str]:
        """``meta.dagster.tags``, and what DVC says of the stage: frozen, always changed."""
        flags = {"dvc/frozen": stage.frozen, "dvc/always_changed": stage.always_changed}
        return meta.read(stage).tags | {name: "true" for name, on in flags.items() if on}

    def get_pool(self, stage: Stage) -> str:
        """``meta.dagster.pool``, else a pool of the stage's own: two runs never run one stage at once."""
        return meta.read(stage).pool or "stage__" + identifier(stage.name)

    def get_retry_policy(self, stage: Stage) -> dg.RetryPolicy | None:
        """``meta.dagster.retries`` for a killed stage, ten seconds apart; None uses what `dvc_assets` was given."""
        retries = meta.read(stage).retries
        return None if retries is None else dg.RetryPolicy(max_retries=retries, delay=10)

    def get_automation_condition(self, stage: Stage) -> dg.AutomationCondition | None:
        """``meta.dagster.automation``."""
        word = meta.read(stage).automation
        return AUTOMATION[word]() if word else None

    def get_metadata(self, project: DvcProject, stage: Stage, out: Out | None) -> dict[str, Any]:
        """What can be known before the stage has run: its command, its place, what it reads and writes."""
        metadata: dict[str, Any] = {
            "dagster/code_references": _place(project, stage),
            "dvc/stage": stage.name,
            "dvc/command": dg.MetadataValue.md(block(stage.command)),
        }
        if out is not None:
            metadata["dvc/path"] = dg.MetadataValue.path(str(project.root / out.path))
        tracked = [f"{file}: {key}" for file, keys in stage.param_keys.items() for key in keys or ["(all)"]]
        if tracked:
            metadata["dvc/params"] = ", ".join(tracked)
        if mistakes := meta.complaints(stage):
            metadata["dvc/problem"] = "; ".join(mistakes)
        return metadata

    def get_result_metadata(self, project: DvcProject, stage: Stage, out: Out | None, entry: Entry) -> dict[str, Any]:
        """What is known once the stage has run: its numbers, the params that made it, hashes, sizes."""
        metrics = read_metrics(project, stage)
        found = numbers(metrics)
        metadata: dict[str, Any] = dict(_most_telling(found, list(headline(stage, metrics))))
        if len(found) > len(metadata):
            rows = [{"name": name, "value": f"{value:.6g}"} for name, value in found.items()]
            metadata["metrics"] = dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows])
        rows = [row for file, values in entry.params.items() for row in _rows(file, values)]
        if rows:
            metadata["params"] = dg.MetadataValue.table(records=[dg.TableRecord(row) for row in rows])
        locked = entry.outs.get(out.path) if out else None
        if locked and locked.hash:
            metadata["dvc/hash"] = locked.hash
            metadata |= {
                key: value
                for key, value in (("dvc/bytes", locked.size), ("dvc/files", locked.num_files))
                if value is not None
            }
        metadata["dvc/inputs"] = dg.MetadataValue.table(
            records=[dg.TableRecord({"path": dep.path, "hash": dep.hash or "-"}) for dep in entry.deps.values()],
            schema=dg.TableSchema(columns=[dg.TableColumn("path"), dg.TableColumn("hash")]),
        )
        return metadata

    def get_asset_spec(
        self, project: DvcProject, stage: Stage, out: Out | None, deps: list[dg.AssetKey], code_version: str | None
    ) -> dg.AssetSpec:
        """The whole asset, from the methods above."""
        return dg.AssetSpec(
            key=self.get_asset_key(stage, out),
            deps=deps,
            code_version=code_version,
            description=self.get_description(stage, out),
            group_name=self.get_group_name(stage),
            kinds=self.get_kinds(stage, out),
            owners=self.get_owners(stage),
            tags=self.get_tags(stage),
            metadata=self.get_metadata(project, stage, out),
            automation_condition=self.get_automation_condition(stage),
        )


class Assets:
    """Which asset is which output: the keys of a project under a translator, and the edges between them."""

    def __init__(self, project: DvcProject, translator: DvcTranslator | None = None) -> None:
        self.project = project
        self.translator = translator or DvcTranslator()
        self.keys: dict[tuple[str, str | None], dg.AssetKey] = {}
        self.sources: dict[str, dg.AssetKey] = {}
        self.problems = [line for stage in project.stages.values() for line in meta.complaints(stage)]
        self._taken: dict[str, str] = {}
        for stage in project.stages.values():
            for out in stage.data_outs or [None]:
                key = self.translator.get_asset_key(stage, out)
                place = f"{stage.file}:{stage.line} (stage '{stage.name}', {out.path if out else 'no data output'})"
                self.keys[stage.name, out.path if out else None] = self._own(key, place, out.path if out else "")
        for path in project.sources:
            self.sources[path] = self._own(self.translator.get_source_key(path), f"the source '{path}'", path)
        self.operations = _unique({stage.name: f"repro_{identifier(stage.name)}" for stage in project.stages.values()})

    def _own(self, key: dg.AssetKey, place: str, path: str) -> dg.AssetKey:
        """The key, or another where it is taken: Dagster makes names of keys in which ``a-b`` and ``a_b`` are one."""
        name = key.to_python_identifier()
        if name in self._taken:
            told = f"{place} and {self._taken[name]} would both be the asset {key.to_user_string()}"
            key = dg.AssetKey([*key.path[:-1], names.other(key.path[-1], f"{place} {path}")])
            self.problems.append(f"{told}; the first is called {key.to_user_string()}: rename one")
            name = key.to_python_identifier()
        self._taken[name] = place
        return key

    def of_stage(self, stage: Stage) -> dict[Out | None, dg.AssetKey]:
        """The assets of one stage."""
        return {out: self.keys[stage.name, out.path if out else None] for out in stage.data_outs or [None]}

    def upstream(self, stage: Stage) -> dict[dg.AssetKey, tuple[str, Stage | None, Out | None]]:
        """Asset the stage reads -> the dependency's path, and the stage and output that make it (None for a source)."""
        found: dict[dg.AssetKey, tuple[str, Stage | None, Out | None]] = {}
        for dep in self.project.data_deps(stage):
            makers = self.project.producers(dep)
            if not makers:
                found[self.sources[dep]] = (dep, None, None)
            for maker, out in makers:
                data = out if out.kind == "data" else next(iter(maker.data_outs), None)
                key = self.keys[maker.name, data.path if data else None]
                if key not in found or out.kind == "data":
                    found[key] = (dep, maker, data)
        return found


def _unique(wanted: Mapping[str, str]) -> dict[str, str]:
    """By stage the name of its operation; stages whose names differ in what Dagster does not take get another."""
    taken = Counter(wanted.values())
    return {stage: names.other(name, stage) if taken[name] > 1 else name for stage, name in wanted.items()}


@contextlib.contextmanager
def known_beta() -> Iterator[None]:
    """Code references and observable sources are beta in Dagster 1.13; tests notice when they change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


def _place(project: DvcProject, stage: Stage) -> dg.CodeReferencesMetadataValue:
    """The stage's line in dvc.yaml, for the links of the web interface."""
    with known_beta():
        reference = dg.LocalFileCodeReference(
            file_path=str(project.root / stage.file), line_number=stage.line, label=f"{stage.name} in {stage.file}"
        )
        return dg.CodeReferencesMetadataValue(code_references=[reference])


def _most_telling(found: Mapping[str, float], first: list[str]) -> list[tuple[str, float]]:
    """The numbers that get a history plot each: the headline, then the shallowest names; the rest goes into a table."""
    names = [*first, *sorted(found.keys() - set(first), key=lambda name: name.count("/"))]
    return [(name, found[name]) for name in names[:MOST_NUMBERS]]


def _rows(file: str, values: Mapping[str, Any]) -> list[dict[str, str]]:
    prefix = "" if Path(file).name == "params.yaml" else f"{file}: "
    return [{"name": f"{prefix}{name}", "value": value} for name, value in _flat(values)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "null" if value is None else str(value)))
    return rows
