"""Marked numbers of a page of Markdown: read, compared with the numbers of their run, and written.

The marks are described in :mod:`benchmarks.claims`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NUMBER = r"[+−]?\d[\d,]*(?:\.\d+)?"
SPREAD = rf"(?: \((?P<low>{NUMBER}) to (?P<high>{NUMBER})\)| ± (?P<std>{NUMBER}))?"
FORM = re.compile(rf"\**(?P<value>{NUMBER})\**(?P<percent> %)?{SPREAD}\**$")
MARK = re.compile(r"<!--= (?P<run>\w+) (?P<stage>\S+) (?P<name>\S+)-->")
TABLE = re.compile(
    r"<!--= (?P<run>\w+)\ncolumns: (?P<columns>[^\n]+)\nrows: (?P<rows>[^\n]+)\n-->\n+(?P<body>(?:\|[^\n]*\n)+)"
)
LINES = re.compile(r"<!--= (?P<run>\w+) lines-->\n+```\w*\n(?P<body>.*?)```", re.DOTALL)
ANY = re.compile(r"<!--=")

Numbers = dict[str, dict[str, float | str]]
"""Stage (or column of an ablation) -> name -> number, or the word of a verdict."""


class ClaimError(Exception):
    """A mark that cannot be read, or a number that its run does not have."""


@dataclass
class Book:
    """Numbers of the runs, and which of them were asked for; marks of a run that is ``left`` stay as they are."""

    runs: Mapping[str, Numbers]
    only: str | None = None
    asked: dict[str, Numbers] = field(default_factory=dict)

    def left(self, run: str) -> bool:
        """Whether marks of that run are not looked at."""
        return self.only not in (None, run)

    def has(self, run: str, stage: str, name: str) -> bool:
        """Whether the run has that number."""
        return name in self.runs.get(run, {}).get(stage, {})

    def get(self, run: str, stage: str, name: str) -> float | str:
        """The number, noted as asked for.

        Raises:
            ClaimError: the run has none.
        """
        if not self.has(run, stage, name):
            raise ClaimError(f"docs/numbers/{run}.json has no {stage} {name}")
        value = self.runs[run][stage][name]
        self.asked.setdefault(run, {}).setdefault(stage, {})[name] = value
        return value


def shown(value: float | str, like: str, signed: bool = False) -> str:
    """A number with as many digits as the text that stands in its place; a true minus."""
    if isinstance(value, str):
        raise ClaimError(f"{like}: the run says {value!r} there")
    digits = len(like.partition(".")[2])
    text = f"{value:{',' if ',' in like else ''}.{digits}f}"
    if not re.search(r"[1-9]", text):
        text = text.lstrip("-")
    return ("+" if signed and not text.startswith("-") else "") + text.replace("-", "−")


def written(text: str, told: Callable[[str], float | str], signed: bool) -> str:
    """The number (with its interval) at the end of some text as it should be; ``told`` gives it by suffix."""
    found = FORM.search(text)
    if found is None:
        raise ClaimError(f"no number before the mark: {text[-40:]!r}")
    pieces, place = [], 0
    for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high"), ("std", "_std")):
        if found[part] is not None:
            value = told(suffix)
            scaled = value * 100 if found["percent"] and not isinstance(value, str) else value
            pieces += [text[place : found.start(part)], shown(scaled, found[part], signed and part != "std")]
            place = found.end(part)
    return "".join([*pieces, text[place:]])


def inline(text: str, book: Book) -> str:
    """A page with every number right that has a mark right after it."""
    pieces, place = [], 0
    for mark in MARK.finditer(text):
        run, stage, name = mark.groups()
        if book.left(run):
            continue
        with_line = _at(text, mark.start())
        before = text[place : mark.start()]
        try:
            told = written(before, lambda end, r=run, s=stage, n=name: book.get(r, s, n + end), _signed(name))
        except ClaimError as error:
            raise ClaimError(f"{with_line}: {error}") from None
        pieces += [told, mark[0]]
        place = mark.end()
    return "".join([*pieces, text[place:]])


def _signed(name: str) -> bool:
    return name.endswith("/difference")


def _at(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}"


def in_tables(text: str, book: Book) -> str:
    """A page with every cell right of the tables that have a comment above them."""

    def table(found: re.Match[str]) -> str:
        if book.left(found["run"]):
            return found[0]
        columns, rows = found["columns"].split(", "), found["rows"].split(", ")
        head, rule, *body = found["body"].splitlines()
        where = _at(text, found.start())
        if len(body) != len(rows):
            raise ClaimError(f"{where}: the comment names {len(rows)} rows, the table has {len(body)}")
        made = [_row(line, row, columns, found["run"], book, where) for line, row in zip(body, rows, strict=True)]
        return found[0].replace(found["body"], "\n".join([head, rule, *made]) + "\n")

    return TABLE.sub(table, text)


def _row(line: str, row: str, columns: list[str], run: str, book: Book, where: str) -> str:
    label, *cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
    if len(cells) != len(columns):
        raise ClaimError(f"{where}: {row}: {len(cells)} cells, the comment names {len(columns)} columns")
    made = []
    for cell, column in zip(cells, columns, strict=True):
        if "-" in (column, row) or cell.strip() in ("", "–"):
            made.append(cell)
            continue
        stage, _, name = column.replace("*", row).partition(" ")
        try:
            made.append(f" {_cell(cell.strip(), run, stage, name, book)} ")
        except ClaimError as error:
            raise ClaimError(f"{where}: row {row}: {error}") from None
    return "|".join(["", label, *made, ""])


def _cell(cell: str, run: str, stage: str, name: str, book: Book) -> str:
    if not re.search(r"\d", cell):
        return str(book.get(run, stage, name))
    if not FORM.fullmatch(cell):
        raise ClaimError(f"{cell!r} is no number with or without an interval")
    return written(cell, lambda end: book.get(run, stage, name + end), _signed(name))


def in_lines(text: str, book: Book) -> str:
    """A page with the output of commands as the run would print it."""

    def block(found: re.Match[str]) -> str:
        if book.left(found["run"]):
            return found[0]
        made = "".join(_line(line, found["run"], book) for line in found["body"].splitlines(keepends=True))
        return found[0].replace(found["body"], made)

    return LINES.sub(block, text)


def with_times(text: str, transcript: str) -> str:
    """A page whose marked output has the times of a transcript: of every stage that it says is done, and of all."""
    times = dict(re.findall(r"^(\w+) +done +(\S.*?)(?:  |$)", transcript, re.MULTILINE))
    whole = re.search(r"^\d+ stages in .+$", transcript, re.MULTILINE)

    def row(found: re.Match[str]) -> str:
        name, between, old, gap = found.groups()
        return f"{name}{between}{times.get(name, old):<{len(old + gap) - 2}}  "

    def block(found: re.Match[str]) -> str:
        body = re.sub(r"^(\w+)( +done +)(\S.*?)(  +)", row, found["body"], flags=re.MULTILINE)
        body = re.sub(r"^\d+ stages in .+$", whole[0] if whole else r"\g<0>", body, flags=re.MULTILINE)
        return found[0].replace(found["body"], body)

    return LINES.sub(block, text)


def _line(line: str, run: str, book: Book) -> str:
    stage = re.match(r"\w*", line)[0]  # pyright: ignore[reportOptionalSubscript]

    def told(name: str, spec: str) -> str:
        value = book.get(run, stage, name)
        return value if isinstance(value, str) else f"{value:{spec}}"

    def pair(found: re.Match[str]) -> str:
        return f"{found[1]} {told(found[1], '.4g')}" if book.has(run, stage, found[1]) else found[0]

    def gate(found: re.Match[str]) -> str:
        name = f"gates/{found[1]}"
        if not book.has(run, stage, f"{name}/verdict"):
            return found[0]
        bound = f"{told(f'{name}/value', '.4g')} {told(f'{name}/comparison', '')} {told(f'{name}/threshold', 'g')}"
        return f"gate {found[1]}: {told(f'{name}/verdict', '')} ({bound};"

    def verdict(found: re.Match[str]) -> str:
        name = f"gates/{found[1]}/verdict"
        return f"[{found[1]} {told(name, '')}]" if book.has(run, stage, name) else found[0]

    line = re.sub(r"gate (\w+): \w+ \(\S+ \S+ [^;]+;", gate, line)
    line = re.sub(r"\[(\w+) (?:pass|warn|fail)\]", verdict, line)
    return re.sub(r"(?<!\S)([\w./-]+) -?\d[\d.e+-]*(?=\s|$)", pair, line)


def corrected(text: str, book: Book) -> str:
    """A page in which every marked number is that of its run.

    Raises:
        ClaimError: a mark that nothing reads, or a number that the run does not have.
    """
    read = sum(len(pattern.findall(text)) for pattern in (MARK, TABLE, LINES))
    if read < len(ANY.findall(text)):
        raise ClaimError(f"a comment '<!--= …' that is neither number, table nor lines: {_unread(text)}")
    return in_lines(in_tables(inline(text, book), book), book)


def _unread(text: str) -> str:
    starts = {found.start() for pattern in (MARK, TABLE, LINES) for found in pattern.finditer(text)}
    return next(_at(text, found.start()) for found in ANY.finditer(text) if found.start() not in starts)
