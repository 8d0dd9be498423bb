"""Write down what DVC sees in a project: every stage resolved, as JSON. The only module that imports dvc.

It runs as a process of its own (``python -m dagster_dvc.manifest <root>``), so that neither a Dagster code location nor
the command line ever imports dvc; `dagster_dvc.project` calls it and keeps the answer until a file it read changes.

A stage that DVC cannot resolve is left out and listed under ``problems`` with file and line, and so are the stages of a
cycle. A ``dvc.yaml`` of which nothing can be resolved (its ``params.yaml`` is broken) stands under ``unresolved`` too.
Only a ``dvc.yaml`` that is no YAML at all, or a folder that is no DVC project, ends the program (exit status 1, the
message on standard error). ``files`` are all files that the answer depends on, also those that could not be read.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc import complaint as told
from dagster_dvc.hashing import sha256_of
from dagster_dvc.resolved import VERSION, dvc_version
from dagster_dvc.values import as_json, as_read
from dagster_dvc.values_files import values_files
from dagster_dvc.yaml12 import load


def build(root: Path) -> dict[str, Any]:
    """The manifest of the DVC project at `root`: stages, tracked sources, problems, and the files read."""
    from dvc.repo import Repo

    repo = Repo(str(root))
    logging.getLogger("dvc").setLevel(logging.ERROR)
    stages: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    unresolved: list[str] = []
    read: set[str] = set()
    for path in _dvc_files(repo):
        relative = os.path.relpath(path, repo.root_dir)
        read.add(relative)
        if path.endswith(".dvc"):
            sources += _tracked_sources(repo, path, problems)
        else:
            found = _stages(repo, path, problems, read)
            stages += found or ()
            unresolved += [relative] if found is None else []
    made = {out["path"] for stage in stages for out in stage["outs"]}
    read = {file for file in read | {file for stage in stages for file in stage["params"]} if file not in made}
    stages = _without_cycles(_readable(repo, stages, problems), problems)
    read |= {".dvc/config", ".dvc/config.local"}  # where the cache is
    read |= {
        ".dvcignore",
        *(os.path.relpath(file, root) for file in root.glob("*/.dvcignore")),
    }  # an output may be named
    return {
        "version": VERSION,
        "dvc": dvc_version(),
        "cache": _cache(repo),
        "remote": repo.config["core"].get("remote"),
        "files": {file: sha256_of(Path(repo.root_dir) / file) for file in sorted(read)},
        "stages": stages,
        "sources": sources,
        "problems": problems,
        "unresolved": unresolved,
    }


def _cache(repo: Any) -> str:
    """Where objects are kept; relative when it lies in the project, which may be moved or copied."""
    path, root = Path(repo.cache.local.path), Path(repo.root_dir)
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _dvc_files(repo: Any) -> Iterator[str]:
    from dvc.dvcfile import is_valid_filename

    for folder, folders, files in repo.dvcignore.walk(repo.fs, repo.root_dir):
        folders.sort()
        yield from (str(Path(folder) / file) for file in sorted(files) if is_valid_filename(file))


def _stages(repo: Any, path: str, problems: list[dict[str, Any]], read: set[str]) -> list[dict[str, Any]] | None:
    """The stages of one ``dvc.yaml``; None where nothing of it can be resolved."""
    from dvc.dvcfile import ProjectFile
    from dvc.exceptions import DvcException
    from dvc.utils.strictyaml import YAMLValidationError

    relative = os.path.relpath(path, repo.root_dir)
    lines = _stage_lines(Path(path))
    file = ProjectFile(repo, path)
    try:
        contents = file.contents
    except YAMLValidationError as error:
        contents, broken = _without_invalid(Path(path), error, relative, lines)
        problems += broken
        file.__dict__["contents"] = contents
    file.__dict__["lockfile_contents"] = {}  # the lock is data; a damaged one must not hide the graph
    read |= {os.path.relpath(file, repo.root_dir) for file in values_files(contents, Path(path).parent)}
    stages = []
    try:
        names = list(file.stages)
    except (DvcException, TypeError) as error:  # a TypeError: see told.UNSUPPORTED
        if isinstance(error, TypeError) and told.place(error, Path(repo.root_dir)) is None:
            raise
        problems.append(_placed(repo, error, None, relative, 1))
        return None
    for name in names:
        line = lines.get(name) or lines.get(name.split("@")[0]) or 1
        try:
            stages.append(_describe(repo, file.stages[name], relative, line))
        except DvcException as error:
            problems.append(_placed(repo, error, name, relative, line))
    return stages


def _without_invalid(
    path: Path, error: Any, relative: str, lines: dict[str, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The file's contents without the stages that break DVC's schema, and a problem for each complaint."""
    from dvc.utils.serialize import parse_yaml_for_update
    from dvc.utils.strictyaml import determine_linecol

    contents: Any = load(path.read_text(encoding="utf-8"))
    if not isinstance(contents, dict):
        raise SystemExit(f"{relative}:1: expected a mapping with the key 'stages'")
    marked = parse_yaml_for_update(error.text, str(path))
    problems: dict[str | None, dict[str, Any]] = {}
    for complaint in error.exc.errors:
        where = list(complaint.path)
        stage = str(where[1]) if len(where) > 1 and where[0] == "stages" else None
        line = determine_linecol(marked, where)[0] or lines.get(stage or "") or 1
        place = " -> ".join(str(part) for part in where)
        problems.setdefault(
            stage, _problem(stage, f"{complaint.error_message}, in {place}" if place else complaint, relative, line)
        )
        if stage is None:
            contents.pop(where[0] if where else "stages", None)
        else:
            contents["stages"].pop(stage, None)
    return contents, list(problems.values())


def _stage_lines(path: Path) -> dict[str, int]:
    """Line (from 1) of every stage's name; empty when the file is no YAML mapping."""
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        return {}
    pairs = tree.value if isinstance(tree, yaml.MappingNode) else []
    stages = {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}.get("stages")
    if not isinstance(stages, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in stages.value}


def _describe(repo: Any, stage: Any, file: str, line: int) -> dict[str, Any]:
    from dvc.dependency import ParamsDependency

    def relative(path: str) -> str:
        return os.path.relpath(path, repo.root_dir)

    def place(item: Any) -> str:
        return relative(item.fs_path) if item.protocol == "local" else str(item)

    deps, params = [], {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params[relative(dep.fs_path)] = _params(dep)
        else:
            deps.append(place(dep))
    outs = [
        {
            "path": place(out),
            "kind": "metrics" if out.metric else "plots" if out.plot else "data",
            "cache": bool(out.use_cache),
            "persist": bool(out.persist),
        }
        for out in stage.outs
    ]
    return {
        "name": stage.addressing,
        "file": file,
        "line": line,
        "group": stage.raw_data.generated_from,
        "cmd": stage.cmd,
        "desc": stage.desc,
        "meta": as_json(stage.meta or {}, str),
        "wdir": relative(stage.wdir),
        "written": {place(item): item.def_path for item in (*stage.deps, *stage.outs)},
        "deps": sorted(deps),
        "params": params,
        "outs": sorted(outs, key=lambda out: out["path"]),
        "frozen": bool(stage.frozen),
        "always_changed": bool(stage.always_changed),
    }


def _params(dep: Any) -> dict[str, Any]:
    """Keys and values of a params file; ``broken`` says why it cannot be read."""
    from dvc.dependency.param import BadParamFileError

    keys = sorted(dep.params)
    try:
        return {"keys": keys, "values": as_read(dep.read_params(), dep.fs_path)}
    except BadParamFileError as error:
        return {"keys": keys, "values": {}, "broken": error}


def _readable(repo: Any, stages: list[dict[str, Any]], problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages whose params files can be read. One that a stage makes is made again: it is read when asked for."""
    made = {out["path"] for stage in stages for out in stage["outs"]}
    left = []
    for stage in stages:
        broken = [
            params["broken"] for file, params in stage["params"].items() if "broken" in params and file not in made
        ]
        problems += [_placed(repo, why, stage["name"], stage["file"], stage["line"]) for why in broken]
        if not broken:
            left.append(stage)
        for file, params in stage["params"].items():
            stage["params"][file] = {"keys": params["keys"], "values": {} if file in made else params["values"]}
    return left


def _tracked_sources(repo: Any, path: str, problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from dvc.dvcfile import load_file
    from dvc.exceptions import DvcException

    relative = os.path.relpath(path, repo.root_dir)
    try:
        outs = load_file(repo, path).stage.outs
    except DvcException as error:
        problems.append(_problem(None, error, relative, 1))
        return []
    return [
        {
            "path": os.path.relpath(out.fs_path, repo.root_dir),
            "file": relative,
            "md5": out.hash_info.value if out.hash_info else None,
        }
        for out in outs
        if out.protocol == "local"
    ]


def _without_cycles(stages: list[dict[str, Any]], problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages that can be put in order; those of a cycle, and what only they feed, become problems."""
    from dagster_dvc.graph import producers, reaches

    upstream = producers(stages)
    left = {stage["name"]: stage for stage in stages}
    free = True
    while free:
        free = [name for name in left if not upstream[name] & left.keys()]
        for name in free:
            del left[name]
    cycle = {name for name in left if reaches(name, name, upstream)}
    for name, stage in left.items():
        others = ", ".join(sorted(cycle))
        reason = (
            f"the graph has a cycle through {others}" if name in cycle else f"comes after the cycle through {others}"
        )
        problems.append(_problem(name, reason, stage["file"], stage["line"]))
    return [stage for stage in stages if stage["name"] not in left]


def _placed(repo: Any, error: Exception, stage: str | None, file: str, line: int) -> dict[str, Any]:
    """A problem at the file and line that DVC knows of deeper down, else at the given ones."""
    return _problem(stage, error, file, line) | (told.place(error, Path(repo.root_dir)) or {})


def _problem(stage: str | None, error: object, file: str, line: int) -> dict[str, Any]:
    message = " ".join(str(error).split())
    return {"stage": stage, "message": message, "file": file, "line": line}


def main() -> int:
    """Print the manifest of the project named by the first argument."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.scm import SCMError

    root = Path(sys.argv[1]).resolve()
    os.chdir(root)
    try:
        manifest = build(root)
    except NotDvcRepoError:
        print(f"{root}: not a DVC project; run `dvc init --no-scm` there", file=sys.stderr)
        return 1
    except (DvcException, SCMError) as error:
        print(told.in_one_line(error, root), file=sys.stderr)
        return 1
    json.dump(manifest, sys.stdout, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(main())
