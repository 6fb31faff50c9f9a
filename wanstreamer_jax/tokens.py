"""Text and ids: the language model's own byte-level tokenizer; our control token, <unit_end>, has a spare id.

Text that people type can never become a control token: text is encoded without the tokenizer's added tokens, so
that "<|im_end|>" is ten characters like any others. Nor can a control token become text: an id that the vocabulary of
text does not have decodes to nothing.

A token is bytes, not characters: one character may be spread over several tokens, and over several units.
`TextStream` holds an incomplete character back until the rest of it arrives.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from wanstreamer_jax.config import Config


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2; Qwen3 has the same).

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for characters from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_SPACE = chr(256 + 32)  # the character that stands for it
_WORDS = resources.files("wanstreamer_jax") / "assets" / "words.txt"


class Tokenizer:
    """A byte-level BPE tokenizer (Qwen3, arXiv 2505.09388, section 2) read from the text of a `tokenizer.json`.

    Raises ValueError with the reason when the text is no such tokenizer.
    """

    def __init__(self, text: str) -> None:
        description, added = _parse(text)
        self._text = text
        self._library = _text_only(description)
        self._control = frozenset(added)
        self.n_entries = 1 + max([*self._library.get_vocab().values(), *added])

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.json`; ValueError names the file and the reason when it is none."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write the `tokenizer.json` that `load` reads, as it was read."""
        Path(path).write_text(self._text, encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Of the text that it was read from, in hexadecimal."""
        return hashlib.sha256(self._text.encode(errors="replace")).hexdigest()

    def check_fits(self, config: Config) -> None:
        """Raise ValueError unless the model has an embedding for every entry, and <unit_end> one of its own."""
        if self.n_entries > config.text.unit_end:
            raise ValueError(
                f"the tokenizer has {self.n_entries} entries, ids 0 to {self.n_entries - 1}, but the model has room "
                f"for {config.text.unit_end} before <unit_end> (text.unit_end)"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a control token, whatever the text says."""
        well_formed = text.encode(errors="replace").decode()  # JSON can carry half a surrogate pair
        return self._library.encode(well_formed, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens dropped; bytes that are no character become U+FFFD."""
        stream = TextStream(self)
        return stream.push(ids) + stream.finish()

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a control token and for an id without an entry."""
        token = None if token_id in self._control else self._library.id_to_token(int(token_id))
        return bytes(_BYTE_OF[character] for character in token or "")


class TextStream:
    """Decodes ids as they come, holding an incomplete character back until its last byte is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Return the characters that these ids complete."""
        return self._decoder.decode(b"".join(self._tokenizer.bytes_of(i) for i in ids))

    def finish(self) -> str:
        """Return what was held back, as U+FFFD, and start afresh."""
        return self._decoder.decode(b"", final=True)


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of 256 entries, one a byte, otherwise like Qwen3's: for agents too small for a vocabulary."""
    return _byte_level(models.BPE(vocab=_BYTE_OF, merges=[]))


def word_tokenizer() -> Tokenizer:
    """Bytes, and each of some English words as one token: `assets/words.txt`, all that the synthetic world says.

    A word comes with the space before it; one that begins with a capital also without. Its merges run from left to
    right, so that its beginnings are entries too: " w", " wo", " wor", " word".
    """
    words = world_words()
    spellings = [f"{_SPACE}{word}" for word in words] + [word for word in words if word[0].isupper()]
    beginnings = {spelling[:n] for spelling in spellings for n in range(2, len(spelling) + 1)}
    # With the space first: or a capital would leave it for the letters after it.
    ordered = sorted(beginnings, key=lambda text: (text[0] != _SPACE, len(text), text))
    vocabulary = _BYTE_OF | {text: len(_BYTE_OF) + i for i, text in enumerate(ordered)}
    return _byte_level(models.BPE(vocab=vocabulary, merges=[(text[:-1], text[-1]) for text in ordered]))


def world_words() -> list[str]:
    """All words that the synthetic world says, with and without a capital where it says both."""
    return _WORDS.read_text(encoding="utf-8").split()


def own_tokenizer(unit_end: int) -> Tokenizer | None:
    """The one of ours that <unit_end> follows on: bytes, words, or neither."""
    ours = (make() for make in (byte_tokenizer, word_tokenizer))
    return next((tokenizer for tokenizer in ours if tokenizer.n_entries == unit_end), None)


def fresh_tokenizer(config: Config) -> Tokenizer:
    """What an agent reads that has no language model's tokenizer: words if <unit_end> follows on them, else bytes.

    Raises ValueError when its vocabulary has no room for bytes.
    """
    tokenizer = own_tokenizer(config.text.unit_end) or byte_tokenizer()
    tokenizer.check_fits(config)
    return tokenizer


def _byte_level(model: models.BPE) -> Tokenizer:
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return Tokenizer(library.to_str())


def _parse(text: str) -> tuple[dict[str, Any], list[int]]:
    """The JSON of a tokenizer and the ids of its added tokens."""
    try:
        description = json.loads(text)
        return description, [int(token["id"]) for token in description.get("added_tokens", [])]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no tokenizer: {type(error).__name__}: {error}") from error


def _text_only(description: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer that knows text and nothing else, and neither cuts nor pads it."""
    plain = description | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"no tokenizer: {error}") from error
    vocabulary = library.get_vocab()
    bytewise = _BYTE_OF.keys() <= vocabulary.keys() and set("".join(vocabulary)) <= _BYTE_OF.keys()
    if not (bytewise and isinstance(library.decoder, decoders.ByteLevel)):
        raise ValueError("no byte-level tokenizer: needs a ByteLevel decoder, and a vocabulary of bytes with all 256")
    return library
