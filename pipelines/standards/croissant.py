"""Croissant 1.1 (MLCommons) of a data set of ours, with PROV-O back to the clips.

Shards and tables are files by SHA-256 (and DVC's MD5, where its cache lists them). The table has a row per sample, each
of which was derived from a clip: an annotation of the rows says so in the words of PROV, so a description of 250,000
clips is as long as one of ten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import read_schema

from pipelines.chain import NoChain
from pipelines.described import read_json
from pipelines.document import load
from pipelines.provenance import Lineage
from pipelines.recording import HASH, files_listed
from pipelines.stage import file_digest
from pipelines.standards.statements import clean

VERSION = "http://mlcommons.org/croissant/1.1"
ROWS = "samples"
TABLES = {"index.parquet": "manifest.json", "catalog.parquet": "catalog.parquet"}
"""The table of a data set, and the file whose hash is the data set's."""
CLIP = ("source", "start_seconds", "end_seconds", "content_hash")
"""Columns that say which clip a sample was made from."""
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "annotation": "cr:annotation",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe(found: Lineage) -> dict[str, Any]:
    """The description of a data set.

    Raises:
        NoChain: the path is no data set with a table of its samples.
    """
    table = next((name for name in TABLES if (found.path / name).is_file()), None)
    if table is None:
        raise NoChain(f"{found.path}: no data set: Croissant describes latents and clips ({', '.join(TABLES)}).")
    node = found.nodes[found.artifact]
    facts = node.get("facts") or {}
    spread = ", ".join(f"{count} {split}" for split, count in (facts.get("splits") or {}).items())
    told = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": str(node.get("path") or found.path.name),
        "description": f"Made by Reelgraph's stage {node.get('stage')}: {facts.get('samples')} samples ({spread}).",
        "version": f"0.0.0+{found.artifact[:12]}",
        "isLiveDataset": False,
        **_provenance(found, found.artifact, ()),
        "distribution": list(_files(found.path, table)),
        "recordSet": [_rows(found.path, table)],
    }
    ended = (found.runs.get(found.artifact) or {}).get("ended_at")
    return clean({**told, **({"dateCreated": ended} if ended else {})})


# ---- where it came from -------------------------------------------------------------------------------------------


def identity(digest: str) -> str:
    """The name of an artifact in PROV."""
    return f"urn:reelgraph:content:{digest}"


def _provenance(found: Lineage, digest: str, seen: Sequence[str]) -> dict[str, Any]:
    """What made an artifact, of what, and of what those were made; one that was told before by its name alone."""
    node, run = found.nodes[digest], found.runs.get(digest) or {}
    read = [
        (str(one.get("path") or name), held)
        for name, one in node["inputs"].items()
        for held in (one.get("holds") or {"": one["digest"]}).values()
    ]
    activity = {
        "@type": "prov:Activity",
        "prov:label": str(node.get("stage")),
        "prov:startedAtTime": run.get("began_at"),
        "prov:endedAtTime": run.get("ended_at"),
        "prov:used": [{"@id": identity(held)} for _, held in read],
        "prov:wasAssociatedWith": _agent(node, run),
    }
    sources = [
        {"@type": "prov:Entity", "@id": identity(held), "prov:label": path}
        | (_provenance(found, held, (*seen, digest)) if held in found.nodes and held not in (*seen, digest) else {})
        for path, held in read
    ]
    made = {"prov:wasGeneratedBy": {name: value for name, value in activity.items() if value}}
    return made | ({"prov:wasDerivedFrom": sources} if sources else {})


def _agent(node: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    commit = f", commit {run['commit']}" + (" with local changes" if run.get("dirty") else "") if run else ""
    return {"@type": "prov:SoftwareAgent", "prov:label": f"Reelgraph, code {node.get('code') or 'unknown'}{commit}"}


# ---- files --------------------------------------------------------------------------------------------------------


def _files(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    sums = dvc_sums(folder)
    manifest = read_json(folder / "manifest.json")
    shards = manifest.get("shards") or {}
    known = {**{name: facts["sha256"] for name, facts in shards.items()}, **(manifest.get("files") or {})}
    for name in dict.fromkeys([table, TABLES[table], *known]):
        path = folder / name
        yield {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{shards[name]['size'] if name in shards else path.stat().st_size} B",
            "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
            "sha256": known.get(name) or file_digest(path),
            **({"md5": sums[name]} if name in sums else {}),
        }
    for name, facts in (manifest.get("fields") or {}).items():
        yield _member(name, facts, list(shards))
    if table == "catalog.parquet":
        yield from _clips(are_packed="tar_offset" in read_schema(folder / table).names)


def _clips(are_packed: bool) -> Iterator[dict[str, Any]]:
    """The mp4 files, and the tars that they lie in where they do."""
    tars = {"@type": "cr:FileSet", "@id": "tars", "name": "tars", "encodingFormat": FORMATS[".tar"]}
    clips = {"@type": "cr:FileSet", "@id": "clips", "name": "clips", "encodingFormat": "video/mp4"}
    if are_packed:
        yield {**tars, "includes": "clips/*.tar"}
        yield {**clips, "containedIn": {"@id": "tars"}, "includes": "*.mp4"}
    else:
        yield {**clips, "includes": "clips/*.mp4"}


FORMATS = {
    ".tar": "application/x-tar",
    ".parquet": "application/x-parquet",
    ".json": "application/json",
}
ENDINGS = {"prompt": "prompt.txt"}


def _member(name: str, facts: Mapping[str, Any], shards: Sequence[str]) -> dict[str, Any]:
    shape = " x ".join("any" if size is None else str(size) for size in facts.get("shape") or []) or "one value"
    return {
        "@type": "cr:FileSet",
        "@id": f"field-{name}",
        "name": name,
        "description": f"{facts.get('dtype')}, axes {facts.get('axes') or 'none'}, {shape}",
        "containedIn": [{"@id": shard} for shard in shards],
        "encodingFormat": "text/plain" if name in ENDINGS else "application/octet-stream",
        "includes": f"*.{ENDINGS.get(name, f'{name}.npy')}",
    }


def dvc_sums(folder: Path) -> dict[str, str]:
    """MD5 of the files of an output, as DVC's cache lists them; empty where there is no such list at hand."""
    root = next((one for one in folder.absolute().parents if (one / "dvc.lock").is_file()), None)
    if root is None:
        return {}
    place = folder.absolute().relative_to(root).as_posix()
    stages = (load((root / "dvc.lock").read_text(encoding="utf-8")) or {}).get("stages") or {}
    outs = (out for stage in stages.values() for out in stage.get("outs") or [])
    total = next((str(out.get("md5")) for out in outs if out.get("path") == place), "")
    listing = root / ".dvc" / "cache" / "files" / "md5" / total[:2] / total[2:]
    if not total.endswith(".dir") or not HASH.fullmatch(total) or not listing.is_file():
        return {}
    with contextlib.suppress(ValueError):
        return files_listed(listing.read_text(encoding="utf-8"))
    return {}


# ---- rows ---------------------------------------------------------------------------------------------------------


def _rows(folder: Path, table: str) -> dict[str, Any]:
    schema = read_schema(folder / table)
    fields = [_field(name, schema.field(name).type, table, f"{ROWS}/{name}") for name in schema.names]
    clip = [
        _field(name, schema.field(name).type, table, f"{ROWS}/clip/{name}") for name in CLIP if name in schema.names
    ]
    found: dict[str, Any] = {"@type": "cr:RecordSet", "@id": ROWS, "name": ROWS, "field": fields}
    if "key" in schema.names:
        found["key"] = {"@id": f"{ROWS}/key"}
    if clip:
        found["annotation"] = {
            "@type": "cr:Field",
            "@id": f"{ROWS}/clip",
            "name": "clip",
            "description": "The clip that the sample was made from.",
            "dataType": "prov:Entity",
            "equivalentProperty": "prov:wasDerivedFrom",
            "subField": clip,
        }
    return found


def _field(name: str, kind: pa.DataType, table: str, place: str) -> dict[str, Any]:
    depth = 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_whole, is_real = pa.types.is_integer(kind), pa.types.is_floating(kind)
    word = (
        "sc:Integer"
        if is_whole
        else "sc:Float"
        if is_real
        else "sc:Boolean"
        if pa.types.is_boolean(kind)
        else "sc:Text"
    )
    array = {"isArray": True, "arrayShape": ",".join(["-1"] * depth)} if depth else {}
    source = {"fileObject": {"@id": table}, "extract": {"column": name}}
    return {"@type": "cr:Field", "@id": place, "name": name, "dataType": word, **array, "source": source}
