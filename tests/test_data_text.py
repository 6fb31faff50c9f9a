"""Laws of text in units: the words come back in order, no unit holds too much, nothing is early, nothing is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_cases import CONFIG, LAYOUT, TOKENIZER
from wanstreamer_jax.data.layout import encode_persona, lay_out_words
from wanstreamer_jax.data.text import Due, lay_out, tokenise, unit_of_end, unit_of_start, unit_of_told
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.timeline import UNIT_MS

END = 256
words_in_units = st.lists(
    st.builds(Due, st.integers(0, 12), st.lists(st.integers(0, 255), min_size=1, max_size=7)), max_size=14
).map(lambda words: sorted(words, key=lambda due: due.unit))


@settings(deadline=None)
@given(words_in_units, st.integers(1, 6), st.booleans())
def test_laws_of_layout(words: list[Due], room: int, ends: bool) -> None:
    n_units, most = 30, room + ends
    text = lay_out(words, n_units, most, END if ends else None)
    rows = [list(map(int, ids[:n])) for ids, n in zip(text.ids, text.n, strict=True)]
    assert all(len(row) <= most for row in rows)
    if ends:
        assert all(row[-1] == END and END not in row[:-1] for row in rows)
        rows = [row[:-1] for row in rows]
    placed = [(unit, i) for unit, row in enumerate(rows) for i in row]
    wanted = [(due.unit, i) for due in words for i in due.ids]
    assert [i for _, i in placed] + text.left_over == [i for _, i in wanted]
    assert all(unit >= due for (unit, _), (due, _) in zip(placed, wanted, strict=False))
    for (unit, _), (due, _) in zip(placed, wanted, strict=False):  # and late only where every place before was taken
        assert all(len(rows[k]) == room for k in range(due, unit))
    assert all(not ids[n:].any() for ids, n in zip(text.ids, text.n, strict=True))


@settings(deadline=None)
@given(words_in_units)
def test_words_that_moved_are_counted(words: list[Due]) -> None:
    text = lay_out(words, 200, 3, END)
    assert not text.left_over
    ends, unit_of = 0, [unit for unit, n in enumerate(text.n) for _ in range(n - 1)]
    n_moved = 0
    for due in words:
        ends += len(due.ids)
        n_moved += unit_of[ends - 1] > due.unit
    assert text.n_moved.sum() == n_moved


def test_the_drawn_example() -> None:
    text = lay_out([Due(0, [1]), Due(0, [20, 21, 22]), Due(2, [3])], 4, 4, END)
    assert text.ids.tolist() == [[1, 20, 21, END], [22, END, 0, 0], [3, END, 0, 0], [END, 0, 0, 0]]
    assert text.n.tolist() == [4, 2, 2, 1]
    assert text.n_moved.tolist() == [0, 1, 0, 0]


def test_what_does_not_fit_into_the_session_is_left_over_and_said() -> None:
    text = lay_out([Due(0, [1, 2, 3]), Due(1, [4, 5]), Due(9, [6])], 2, 2)
    assert text.ids.tolist() == [[1, 2], [3, 4]]
    assert text.left_over == [5, 6]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), max_size=6))
def test_words_are_a_text_with_spaces(texts: list[str]) -> None:
    ids = [i for word in tokenise(TOKENIZER, texts) for i in word]
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(TOKENIZER.encode(" ".join(texts)))


@settings(deadline=None)
@given(st.integers(0, 10**7))
def test_moments_and_their_units(ms: int) -> None:
    assert unit_of_start(ms) * UNIT_MS <= ms < (unit_of_start(ms) + 1) * UNIT_MS
    if ms:
        assert unit_of_end(ms) * UNIT_MS < ms <= (unit_of_end(ms) + 1) * UNIT_MS
    assert unit_of_end(0) == 0
    assert [unit_of_told(ms) for ms in (79, 80, 81, 240, 241)] == [0, 0, 1, 1, 2]


def test_who_said_it_says_where_it_stands() -> None:
    words = [
        Word(Who.AGENT, 170, 700, "ab"),
        Word(Who.USER, 170, 321, "cd"),
        Word(Who.BACKGROUND, 200, 400, "no"),
        Word(Who.USER_TYPED, 250, 480, "e"),
    ]
    text = lay_out_words(words, TOKENIZER, LAYOUT, 5)
    a, b, c, d, e = (TOKENIZER.encode(x)[0] for x in "abcde")
    assert [list(map(int, ids[:n])) for ids, n in zip(text.agent.ids, text.agent.n, strict=True)] == [
        [END], [a, b, END], [END], [END], [END]
    ]  # fmt: skip
    assert text.heard.ids[2, :3].tolist() == [c, d, END]
    assert text.heard.n.tolist() == [1, 1, 3, 1, 1]
    assert text.user.ids[2, 0] == e
    assert text.user.n.tolist() == [0, 0, 1, 0, 0]


def test_a_persona_that_no_world_holds_is_refused() -> None:
    assert len(encode_persona("x" * CONFIG.world.max_text, TOKENIZER, LAYOUT)) == CONFIG.world.max_text
    with pytest.raises(ValueError, match="persona of 81 tokens: a world holds 80"):
        encode_persona("x" * 81, TOKENIZER, LAYOUT)
