#!/usr/bin/env bash
# matplotlib 3.11.2: with text.parse_math off, a logarithmic axis shows its labels as source text, "$\mathdefault{10^{-1}}$".
#
# The setting is the documented way to draw text that people wrote (a caption `a sign reading "$$"` ends savefig with a
# ValueError otherwise, long after the text was set). But the default formatter of log axes writes formulas whatever the
# setting says, so the two together draw dollars and braces beside the axis. matplotlib.ticker.LogFormatter does not.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q matplotlib==3.11.2
"$place/venv/bin/python" - <<'PY'
import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter


def drawn(text, formatter=None):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2, 3], [0.01, 1, 100])
    axes.set_yscale("log")
    axes.set_title(text)
    if formatter is not None:
        axes.yaxis.set_major_formatter(formatter)
    figure.savefig(io.BytesIO())
    return [(label.get_text(), label.get_parse_math()) for label in axes.get_yticklabels()]


print("matplotlib", matplotlib.__version__)
try:
    drawn('a sign reading "$$"')
    raise AssertionError("the text was drawn")
except ValueError as error:
    print("parse_math on: ValueError", str(error).strip().splitlines()[-1][:80])
matplotlib.rcParams["text.parse_math"] = False
labels = drawn('a sign reading "$$"')
print("parse_math off:", labels[0])
assert all("$" in text and not parsed for text, parsed in labels)
plain = drawn('a sign reading "$$"', LogFormatter())
print("with LogFormatter:", plain[0])
assert not any("$" in text for text, _ in plain)
print("as stated")
PY
