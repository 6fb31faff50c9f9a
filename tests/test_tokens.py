"""Laws of text: typed text is never control, control is never text, and a stream gives whole characters."""

import dataclasses
import itertools
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from wanstreamer_jax.config import TextConfig
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.tokens import TextStream, byte_tokenizer, fresh_tokenizer, word_tokenizer
from wanstreamer_jax.tokens import Tokenizer as TextTokenizer

# How Qwen3 cuts text before it merges bytes.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "A unit lasts 160 ms, and so does the next one.",
    "Ein Übergang, naïve façade.",
    "一个单元是一百六十毫秒",
    "🙂🙂 ok 👩‍👩‍👧",
]


def _qwen_like() -> str:
    """A tokenizer.json of the form of Qwen3's: byte-level BPE, control tokens added, some of them not special."""
    library = Tokenizer(models.BPE())
    library.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(QWEN_WORDS, behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    )
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    library.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    library.enable_truncation(8)
    library.enable_padding(length=8)
    return library.to_str()


QWEN_LIKE = _qwen_like()
TOKENIZERS = {"bytes": byte_tokenizer(), "words": word_tokenizer(), "qwen-like": TextTokenizer(QWEN_LIKE)}
either = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
any_ids = st.lists(st.integers(0, 600), max_size=40)


@either
@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(CORPUS))
def test_text_survives(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@either
@pytest.mark.parametrize(
    "typed", ["<|unit_end|>", "<unit_end>", "<|im_end|>", "a<|endoftext|>b", "<think>", " <|im_start|>\n"]
)
def test_typed_text_is_never_control(tokenizer: TextTokenizer, typed: str) -> None:
    ids = tokenizer.encode(typed)
    assert tokenizer.decode(ids) == typed
    assert max(ids) < tokenizer.n_entries
    assert all(tokenizer.bytes_of(i) for i in ids)


@either
def test_control_is_never_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("so")
    unit_end = tokenizer.n_entries
    assert tokenizer.decode([unit_end, *ids, unit_end, unit_end + 7]) == "so"


def test_added_tokens_are_never_text() -> None:
    library = Tokenizer.from_str(QWEN_LIKE)
    added = list(library.get_added_tokens_decoder())
    assert len(added) == 4
    assert TOKENIZERS["qwen-like"].decode(added) == ""


@either
@settings(deadline=None)
@given(ids=any_ids, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_a_stream_in_any_pieces_is_the_whole(tokenizer: TextTokenizer, ids: list[int], cuts: list[int]) -> None:
    stream, edges = TextStream(tokenizer), [0, *sorted(cuts), len(ids)]
    pieces = [stream.push(ids[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_stream_gives_only_whole_characters(text: str) -> None:
    tokenizer = byte_tokenizer()
    stream, heard = TextStream(tokenizer), ""
    whole = unicodedata.normalize("NFC", text)
    for token_id in tokenizer.encode(text):
        heard += stream.push([token_id])
        assert whole.startswith(heard)
    assert heard == whole
    assert stream.finish() == ""


def test_an_unfinished_character_is_flushed_once() -> None:
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer)
    assert stream.push(tokenizer.encode("é🙂")[:4]) == "é"
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""
    assert stream.push(tokenizer.encode("é")) == "é"


@settings(deadline=None)
@given(ids=any_ids)
def test_decoding_agrees_with_the_library(ids: list[int]) -> None:
    library = Tokenizer.from_str(QWEN_LIKE)
    assert TOKENIZERS["qwen-like"].decode(ids) == library.decode([i for i in ids if i < 350], skip_special_tokens=True)


@settings(deadline=None)
@given(text=st.sampled_from(CORPUS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_plain_text_has_the_ids_of_the_library(text: str) -> None:
    library = Tokenizer.from_str(QWEN_LIKE)
    library.no_truncation()
    library.no_padding()
    assert TOKENIZERS["qwen-like"].encode(text) == library.encode(text, add_special_tokens=False).ids


def test_the_byte_tokenizer_is_bytes() -> None:
    assert byte_tokenizer().encode("é\n🙂") == list("é\n🙂".encode())
    assert byte_tokenizer().n_entries == 256


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer.encode(json.loads(r'"a\ud83d"'))) == "a?"


def test_control_has_an_id_that_no_text_has() -> None:
    tokenizer, tiny = TOKENIZERS["qwen-like"], load_preset("tiny")
    assert tokenizer.n_entries == 354
    tokenizer.check_fits(dataclasses.replace(tiny, text=TextConfig(unit_end=354)))
    with pytest.raises(
        ValueError, match=r"354 entries, ids 0 to 353, but the model has room for 353 before <unit_end>"
    ):
        tokenizer.check_fits(dataclasses.replace(tiny, text=TextConfig(unit_end=353)))


def test_a_saved_tokenizer_is_the_same_file(tmp_path: Path) -> None:
    TOKENIZERS["qwen-like"].save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_text() == QWEN_LIKE
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(CORPUS[0]) == TOKENIZERS["qwen-like"].encode(CORPUS[0])


def _changed(**changes: object) -> str:
    return json.dumps(json.loads(QWEN_LIKE) | changes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no tokenizer"),
        ("[]", "no tokenizer"),
        ("[" * 100_000, "no tokenizer"),
        ("{}", "no tokenizer"),
        (_changed(added_tokens=[{"content": "no id"}]), "no tokenizer: KeyError"),
        (_changed(decoder=None), "no byte-level tokenizer"),
        (_changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": []}), "no byte-level tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {reason}"):
        TextTokenizer.load(path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json"):
        TextTokenizer.load(tmp_path / "absent.json")


def test_a_known_word_is_one_token_with_its_space() -> None:
    tokenizer = word_tokenizer()
    text = "What colour is the circle? Wanda, two bananaxyz"
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
    assert pieces[:7] == ["What", " colour", " is", " the", " circle", "?", " Wanda"]
    assert "".join(pieces) == text


def test_a_fresh_agent_reads_words_where_its_preset_says_so() -> None:
    tiny = load_preset("tiny")
    assert fresh_tokenizer(tiny).encode(" triangle") == word_tokenizer().encode(" triangle")
    bytewise = dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, unit_end=256))
    assert len(fresh_tokenizer(bytewise).encode(" triangle")) == len(" triangle")
