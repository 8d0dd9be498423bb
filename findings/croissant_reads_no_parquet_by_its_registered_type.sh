#!/usr/bin/env bash
# mlcroissant 1.1.1: a parquet file by its registered media type passes validation, and no row of it can be read.
#
# IANA registers application/vnd.apache.parquet; Croissant 1.1 asks for a MIME type in encodingFormat and names none for
# parquet. The library knows application/x-parquet alone: with the registered one `validate` finds no error, and
# reading the records ends in "None of the provided encoding formats ... returned a valid pandas dataframe".
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q mlcroissant==1.1.1 pandas==3.1.1 pyarrow==26.0.1
"$place/venv/bin/python" - "$place" <<'PY'
import hashlib
import importlib.metadata
import json
import pathlib
import sys

import mlcroissant as mlc
import pandas as pd

place = pathlib.Path(sys.argv[1])
pd.DataFrame({"key": ["a", "b"]}).to_parquet(place / "rows.parquet")
digest = hashlib.sha256((place / "rows.parquet").read_bytes()).hexdigest()


def read(media_type):
    """Errors of validation, and the rows or why there are none."""
    file = mlc.FileObject(
        id="rows", name="rows.parquet", content_url="rows.parquet", encoding_formats=[media_type], sha256=digest
    )
    source = mlc.Source(file_object="rows", extract=mlc.Extract(column="key"))
    field = mlc.Field(id="samples/key", name="key", data_types=mlc.DataType.TEXT, source=source)
    records = mlc.RecordSet(id="samples", name="samples", fields=[field])
    told = mlc.Metadata(name="toy", distribution=[file], record_sets=[records]).to_json()
    (place / "croissant.json").write_text(json.dumps(told, default=str))
    dataset = mlc.Dataset(jsonld=place / "croissant.json")
    errors = list(dataset.metadata.ctx.issues.errors)
    try:
        return errors, [row["samples/key"] for row in dataset.records("samples")]
    except Exception as error:
        return errors, str(error.__cause__ or error)


print("mlcroissant", importlib.metadata.version("mlcroissant"))
for media_type in ("application/x-parquet", "application/vnd.apache.parquet"):
    errors, rows = read(media_type)
    print(media_type, "| errors:", errors, "| rows:", str(rows)[:120])
    assert errors == []
    assert (rows == [b"a", b"b"]) == (media_type == "application/x-parquet")
print("as stated")
PY
