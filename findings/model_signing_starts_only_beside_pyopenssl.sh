#!/usr/bin/env bash
# model-signing 1.1.1 (with sigstore 4.5.1), installed as its own package asks, cannot start.
#
# It imports OpenSSL (pyOpenSSL) at its start, for certificates, also where a plain key signs; its metadata do not name
# that package, and nothing that they name brings it along. With pyOpenSSL installed by hand it starts.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
python="$place/venv/bin/python"
"$python" -m pip install -q model-signing==1.1.1 sigstore==4.5.1
"$python" -m pip show model-signing sigstore | grep -E "^(Name|Version|Requires)"
if "$python" -m model_signing --help > "$place/told" 2>&1; then
    echo "it starts: this has changed"; exit 1
fi
tail -1 "$place/told"
grep -q "No module named 'OpenSSL'" "$place/told"
"$python" -m pip install -q pyopenssl==26.4.0
"$python" -m model_signing --help > /dev/null
echo "as stated: it starts with pyopenssl 26.4.0 beside it"
