"""What stages and people wrote is on the page as text that shows, of some length."""

import html
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.markup import beside, join, tag
from pipelines.evaluation.sections import gate_table, values


@given(st.text(max_size=40))
def test_on_the_page_every_character_of_anybodys_text_shows(words: str) -> None:
    cells = [words, [words, words]]
    shown = join([tag("p", words, title=words), *(cell for row in values({"key": cells}) for cell in row)])
    assert all(c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs" for c in shown)
    if words.isprintable():
        assert html.unescape(shown).count(words) >= 2


def test_a_list_of_long_texts_among_the_values_is_cut() -> None:
    [(_, shown)] = values({"prompts": ["x" * 1_000_000, "y"]})
    assert len(shown) < 400 and "1,000,003 characters" in shown


def test_the_texts_of_a_gate_are_cut() -> None:
    gate = {"name": "n" * 10_000, "value": 1.0, "threshold": "t" * 10_000, "comparison": ">=", "reason": "r" * 10_000}
    assert len(gate_table([gate])) < 2_000


def test_a_word_that_is_wider_than_a_telephone_is_broken() -> None:
    [body] = [line for line in beside("page.css").splitlines() if line.startswith("body {")]
    assert "overflow-wrap: break-word" in body
