"""Readable strings for the entries of a tokenizer, true to their bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any
from unicodedata import category

_BYTE_FALLBACK = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class Vocabulary:
    r"""Readable strings for a tokenizer's entries.

    Strings are true to the bytes of each entry: a leading space stays a space, and bytes
    that are no character by themselves are written ``\xF0``.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer, or None: ids are then shown as ``[17]``.
    size
        Rows of the model's head: what it can answer.
    fed
        Rows of its embedding: what it can be fed; None for as many.
    form
        What texts look like that it was trained on, in words, where that is known.
    """

    def __init__(
        self, tokenizer: Any, size: int, *, fed: int | None = None, form: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.fed = size if fed is None else fed
        self.form = form

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the entries and their numbers; "" where no tokenizer lists them."""
        if not hasattr(self.tokenizer, "get_vocab"):
            return ""
        entries = sorted((index, token) for token, index in self.tokenizer.get_vocab().items())
        return blake2b(repr(entries).encode(), digest_size=8).hexdigest()

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        return decoder is not None and b"ByteLevel" in decoder.__getstate__()

    @cached_property
    def _added(self) -> dict[int, str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {index: token.content for index, token in added.items()}

    @cached_property
    def special(self) -> frozenset[int]:
        """Numbers of the tokenizer's special tokens: BOS, EOS, separators, padding."""
        return frozenset(map(int, getattr(self.tokenizer, "all_special_ids", ())))

    def token_bytes(self, index: int) -> bytes:
        """UTF-8 bytes (perhaps only part of a character) of one vocabulary entry."""
        if self.tokenizer is None:
            return f"[{index}]".encode()
        if index in self._added:
            return self._added[index].encode()
        token: str | None = self.tokenizer.convert_ids_to_tokens(index)
        if token is None:  # the head has more rows than the tokenizer has entries
            return f"[{index}]".encode()
        if self._byte_level:
            return bytes(_BYTE_OF[char] for char in token if char in _BYTE_OF)
        if match := _BYTE_FALLBACK.match(token):
            return bytes([int(match[1], 16)])
        return token.replace("▁", " ").encode()

    def string(self, index: int) -> str:
        """Readable text of one entry by itself."""
        return _readable(self.token_bytes(int(index)))

    def split(self, ids: Sequence[int]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        """Strings of a sequence, with characters that span several tokens put together.

        Returns
        -------
        strings, continues
            As in :class:`Tokens`.
        """
        strings: list[str] = []
        continues: list[bool] = []
        pending = b""
        first = 0
        for index in ids:
            piece = self.token_bytes(int(index))
            if not pending:
                first = len(strings)
            pending += piece
            strings.append("")
            continues.append(len(strings) - 1 > first)
            if not _open_character(pending):
                strings[first] = _readable(pending)
                pending = b""
        if pending:
            strings[first] = _readable(pending)
        _join_clusters(strings, continues)
        return tuple(strings), tuple(continues)

    @cached_property
    def strings(self) -> list[str]:
        """Readable text of every entry."""
        return [self.string(index) for index in range(self.size)]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Text of an entry to its number, for every entry that some text can produce.

        Bytes of their own (``<0x41>``) are what a text becomes that no other entry spells.
        """
        found: dict[str, int] = {}
        for index in sorted(range(self.size), key=self._is_byte):
            if self.has(index) and _is_text(self.token_bytes(index)):
                found.setdefault(self.strings[index], index)
        return found

    def has(self, index: int) -> bool:
        """Whether the tokenizer has an entry for a row of the head."""
        return self.tokenizer is not None and (
            index in self._added or self.tokenizer.convert_ids_to_tokens(index) is not None
        )

    def _is_byte(self, index: int) -> bool:
        token = None if index in self._added else self.tokenizer.convert_ids_to_tokens(index)
        return token is not None and _BYTE_FALLBACK.match(token) is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing put around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def find(self, target: str | int) -> int:
        """The one token that a target names; see :func:`layerlens.model.targets.choose`."""
        from layerlens.model.targets import choose

        return choose(self, target).id

    def search(self, query: str, limit: int) -> list[tuple[int, str]]:
        """Entries whose text holds the query, exact and short ones first.

        Upper and lower case count only for the order; of two equal words the one with a
        leading space, as inside a sentence, comes first.
        """
        wanted = query.strip()
        needle = wanted.lower()
        if not needle:
            return []

        def order(hit: tuple[int, str]) -> tuple[bool, bool, bool, int, bool, int]:
            index, text = hit
            word = text.strip()
            small = word.lower()
            inside = not text.startswith(" ")
            begins = small.startswith(needle)
            return word != wanted, small != needle, not begins, len(word), inside, index

        hits = [hit for hit in enumerate(self.strings) if needle in hit[1].lower()]
        return sorted(hits, key=order)[:limit]


def _join_clusters(strings: list[str], continues: list[bool]) -> None:
    """Put joined emoji and combining marks back to the character they belong to, in place."""
    first = 0
    for position, text in enumerate(strings):
        if continues[position]:
            continue
        joined = strings[first].endswith("\u200d") or (text and _modifies(text[0]))
        if position and len(text) == 1 and strings[first] and joined:
            strings[first] += text
            strings[position], continues[position] = "", True
        else:
            first = position


def _modifies(char: str) -> bool:
    """Whether a character only changes the one before it."""
    return char == "\u200d" or "\U0001f3fb" <= char <= "\U0001f3ff" or category(char) == "Mn"


def _open_character(data: bytes) -> bool:
    """Whether these bytes end in the middle of a UTF-8 character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back < needed
    return False


def _is_text(data: bytes) -> bool:
    """Whether these bytes are whole characters."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _readable(data: bytes) -> str:
    return data.decode("utf-8", errors="backslashreplace")


def _byte_table() -> dict[str, int]:
    """Character -> byte of byte-level BPE (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(256 + offset): byte for offset, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_table()
