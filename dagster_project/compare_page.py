"""The page of `reel compare`: the table, then pictures and clips of all sides next to one another; one file."""

import base64
import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dagster_project.ablation import Judged, Values, words
from dagster_project.comparison import ALONE, spread
from dagster_project.sides import Member

KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
MOST_BYTES = 15 << 20
"""Of pictures and clips together; what is left out is said."""
MOST_LETTERS = 300
"""Of a prompt."""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 1300px; margin: 0 auto; padding: 20px 14px; }
h1, h2, p { overflow-wrap: anywhere; } h1 { font-size: 1.4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: 6px 28px 6px 0; border-bottom: 1px solid #8884; }
th { font-weight: 500; overflow-wrap: anywhere; min-width: 7.5em; } td { min-width: 11em; }
tr:first-child th { font-weight: 700; overflow-wrap: anywhere; }
td { font-variant-numeric: tabular-nums; } td strong { font-weight: 600; } small { display: block; opacity: .75; }
.better small { color: light-dark(#1a7f37, #57c878); opacity: 1; }
.worse small { color: light-dark(#b42318, #f0776c); opacity: 1; }
h2 { font-size: 1.05rem; margin: 1.6em 0 .5em; }
.row { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(260px, 45%), 260px)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .85em; overflow-wrap: anywhere; }
.row:has(img) { grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
img, video { max-width: 100%; background: #fff; border-radius: 6px; }
video { width: 100%; image-rendering: pixelated; }
"""


def write(
    out: Path, sides: Mapping[str, Sequence[Member]], values: Values, names: Sequence[str], judged: Judged
) -> Path:
    """Write ``compare.html`` and ``table.csv``; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([HEADS, *_rows(values, names, judged)])
    head = "<!doctype html><html lang=en><meta charset=utf-8>"
    head += "<meta name=viewport content='width=device-width, initial-scale=1'>"
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>reel compare</title>'
    title = escape(" against ".join(sides))
    body = f"<h1>{title}</h1>{_table(values, names, judged)}<p>{escape(NOTE)}</p>{''.join(_pictures(sides))}"
    (out / "compare.html").write_text(f"{head}<style>{STYLE}</style><body>{body}</body></html>\n", encoding="utf-8")
    return out / "compare.html"


HEADS = ("number", "side", "seeds", "mean ± sd", "difference", "verdict")
NOTE = (
    "The first side is the baseline. Over seeds: mean and standard deviation, differences paired by seed with 95 % "
    "intervals (Student's t). One training says nothing of the next seed; then a verdict, where there is one, is of "
    "equal prompts alone. Of a number that should be near 1, its distance to 1 as a logarithm is compared."
)


def _rows(values: Values, names: Sequence[str], judged: Judged) -> list[list[str]]:
    rows = []
    for name in names:
        for side, told in values.items():
            found = list(told.get(name, {}).values())
            ends = words(judged[side][name]) if side in judged else ["", "baseline"]
            rows.append([name, side, str(len(found)), spread(found), *ends])
    return rows


def _table(values: Values, names: Sequence[str], judged: Judged) -> str:
    """A row per number: the baseline, and every other side with its difference and verdict below."""
    stages = {name.partition(":")[0] for name in names}
    only = f"{stages.pop()}:" if len(stages) == 1 else ""
    heads = "".join(f"<th>{escape(side)}</th>" for side in (only.rstrip(":"), *values))
    lines = [f"<tr>{heads}</tr>"]
    for name in names:
        cells = [f"<th>{escape(name.removeprefix(only))}</th>"]
        for side, told in values.items():
            difference, verdict = words(judged[side][name]) if side in judged else ("", "")
            verdict = "" if verdict == ALONE else verdict  # the note below says so of all at once
            kind = verdict.partition(" ")[0]
            said = f"<small>{escape(difference)}</small><small>{escape(verdict)}</small>" if side in judged else ""
            marked = f" class={kind}" if kind in ("better", "worse") else ""
            cells.append(f"<td{marked}><strong>{escape(spread(list(told.get(name, {}).values())))}</strong>{said}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _pictures(sides: Mapping[str, Sequence[Member]]) -> list[str]:
    """What two sides have of the same name, next to one another: the first member of each side."""
    firsts = {side: members[0].pictures for side, members in sides.items()}
    every = dict.fromkeys(name for pictures in firsts.values() for name in pictures)
    shared = [name for name in every if sum(name in pictures for pictures in firsts.values()) > 1]
    parts, left = [], MOST_BYTES
    captions = {name: text for members in sides.values() for name, text in members[0].captions.items()}
    real = {name: file for members in sides.values() for name, file in members[0].real.items()}
    for count, name in enumerate(shared):
        files = {"real": real[name]} if name in real else {}
        files |= {side: pictures[name] for side, pictures in firsts.items() if name in pictures}
        left -= sum(file.stat().st_size * 4 // 3 for file in files.values())
        if left < 0:
            return [*parts, f"<p>{len(shared) - count} more are left out, to keep the page small.</p>"]
        shown = "".join(f"<figure><figcaption>{escape(side)}</figcaption>{_media(file)}</figure>"
                        for side, file in files.items())  # fmt: skip
        parts.append(f"<h2>{escape(_line(captions.get(name, name)))}</h2><div class=row>{shown}</div>")
    return parts


def _line(text: str) -> str:
    """A text of anybody as a line that cannot fill the page."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: MOST_LETTERS + 1])
    return line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]}…"


def _media(file: Path) -> str:
    data = f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    if file.suffix == ".mp4":
        return f'<video src="{data}" autoplay loop muted playsinline controls></video>'
    return f'<img src="{data}" alt="{escape(file.stem)}">'
