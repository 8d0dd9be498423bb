#!/usr/bin/env bash
# mlcroissant 1.1.1: values of a field that is declared sc:Text come back as other text where a whole column looks like
# numbers, from JSON lines too, where they stand in quotes.
#
# The tables are read with pandas' guessing of types, and what was guessed is written as text again. Clip numbers lose their
# zeros ("000012" is b"12"), shortened digests become powers of ten ("1e3" is b"1000.0"), and long numbers in JSON lines
# lose digits, so that two keys become one. One word among them, and all stay as they are. In CSV a caption "None" is none.
# Validation finds no error, and a join of fields finds nothing, or the wrong row. Parquet, which has types, is read rightly.
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


def read(name, media_type, column):
    """The values of a text field, after validation without an error."""
    digest = hashlib.sha256((place / name).read_bytes()).hexdigest()
    file = mlc.FileObject(id="rows", name=name, content_url=name, encoding_formats=[media_type], sha256=digest)
    source = mlc.Source(file_object="rows", extract=mlc.Extract(column=column))
    field = mlc.Field(id="samples/text", name="text", data_types=mlc.DataType.TEXT, source=source)
    records = mlc.RecordSet(id="samples", name="samples", fields=[field])
    told = mlc.Metadata(name="toy", distribution=[file], record_sets=[records]).to_json()
    (place / "croissant.json").write_text(json.dumps(told, default=str))
    dataset = mlc.Dataset(jsonld=place / "croissant.json")
    assert list(dataset.metadata.ctx.issues.errors) == []
    return [row["samples/text"] for row in dataset.records("samples")]


def read_all(texts):
    """The same texts, by format."""
    (place / "a.jsonl").write_text("".join(json.dumps({"key": text}) + "\n" for text in texts))
    (place / "a.csv").write_text("key\n" + "".join(f'"{text}"\n' for text in texts))
    pd.DataFrame({"key": texts}).to_parquet(place / "a.parquet")
    found = {
        "jsonl": read("a.jsonl", "application/jsonlines", "key"),
        "csv": read("a.csv", "text/csv", "key"),
        "parquet": read("a.parquet", "application/x-parquet", "key"),
    }
    print(texts, found)
    assert found["parquet"] == [text.encode() for text in texts]
    return found


print("mlcroissant", importlib.metadata.version("mlcroissant"), "pandas", pd.__version__)
clips = read_all(["000012", "000013"])
assert clips["jsonl"] == clips["csv"] == [b"12", b"13"]
digests = read_all(["1e3", "4e5"])
assert digests["jsonl"] == digests["csv"] == [b"1000.0", b"400000.0"]
long = read_all(["12345678901234567890123", "12345678901234567890124"])
assert len(set(long["jsonl"])) == 1, "two keys, one value"
beside = read_all(["000012", "clip"])
assert beside["jsonl"] == beside["csv"] == [b"000012", b"clip"]
captions = read_all(["None", "a cat"])
assert captions["csv"] == [None, b"a cat"] and captions["jsonl"] == [b"None", b"a cat"]
print("as stated")
PY
