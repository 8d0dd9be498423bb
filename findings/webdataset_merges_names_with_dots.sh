#!/usr/bin/env bash
# webdataset 1.0.2: two clips whose names hold time stamps become one sample, without an error or a warning.
#
# A sample's key is its members' name up to the first dot, so clip_12.5_17.0.mp4 and clip_12.5_20.0.mp4 are fields
# "5_17.0.mp4" and "5_20.0.mp4" of one sample "clip_12", which has no field "mp4" at all. Members that stand sorted by
# type (all videos, then all texts) become four samples of one field each. Both are valid tars that tar itself writes.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q webdataset==1.0.2
"$place/venv/bin/python" - "$place" <<'PY'
import io
import sys
import tarfile

import webdataset


def samples(*names):
    path = f"{sys.argv[1]}/a.tar"
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    read = webdataset.WebDataset(path, shardshuffle=False)
    return [(one["__key__"], sorted(field for field in one if not field.startswith("__"))) for one in read]


print("webdataset", webdataset.__version__)
stamps = samples(*[f"clip_12.5_{end}.{kind}" for end in ("17.0", "20.0") for kind in ("mp4", "txt")])
print(stamps)
assert stamps == [("clip_12", ["5_17.0.mp4", "5_17.0.txt", "5_20.0.mp4", "5_20.0.txt"])]
sorted_by_type = samples("a.mp4", "b.mp4", "a.txt", "b.txt")
print(sorted_by_type)
assert sorted_by_type == [("a", ["mp4"]), ("b", ["mp4"]), ("a", ["txt"]), ("b", ["txt"])]
print("as stated")
PY
