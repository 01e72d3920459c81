"""From what a user writes to the tokens that are really fed, and back to readable strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unicodedata import category

import torch
from torch import Tensor

from layerlens.errors import InputError

_BYTE_FALLBACK = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


@dataclass(frozen=True)
class Tokens:
    """The tokens that a pass is fed.

    Attributes
    ----------
    ids
        ``[batch, position]`` int64 on the CPU.
    mask
        ``[batch, position]`` bool; False at padding.
    texts
        What each row was made from; None where ids were given.
    strings
        Text of each token; "" at padding and where ``continues``.
    continues
        True where a token only continues the character begun by the one before it (an
        emoji split over several tokens); the whole character stands at the first.
    single
        The user gave one text: results get no batch axis.
    notes
        Remarks on what was fed, such as a BOS token that was added.
    """

    ids: Tensor
    mask: Tensor
    texts: tuple[str | None, ...]
    strings: tuple[tuple[str, ...], ...]
    continues: tuple[tuple[bool, ...], ...]
    single: bool
    notes: tuple[str, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Number of real tokens in each row."""
        return [int(count) for count in self.mask.sum(-1)]

    @property
    def position_ids(self) -> Tensor:
        """``[batch, position]``: positions counted from the first real token of each row."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)


class Vocabulary:
    r"""Readable strings for a tokenizer's entries.

    Strings are true to the bytes of each entry: a leading space stays a space, and bytes
    that are no character by themselves are written ``\xF0``.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer, or None: ids are then shown as ``[17]``.
    size
        Number of rows of the model's head.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        return decoder is not None and b"ByteLevel" in decoder.__getstate__()

    @cached_property
    def _added(self) -> dict[int, str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {index: token.content for index, token in added.items()}

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
    def _ids(self) -> dict[str, int]:
        return {text: index for index, text in reversed(list(enumerate(self.strings)))}

    def find(self, target: str | int) -> int:
        """The one token that a target names.

        Raises
        ------
        InputError
            If it is several tokens or none, with its pieces.
        """
        if not isinstance(target, str):
            if not 0 <= int(target) < self.size:
                raise InputError(
                    f"Token id {target} does not exist: expected 0 to {self.size - 1}."
                )
            return int(target)
        if self.tokenizer is None:
            raise InputError(
                f"'{target}' cannot be looked up: this model has no tokenizer; give a token id."
            )
        ids = self.tokenizer.encode(target, add_special_tokens=False)
        if len(ids) == 1 and self.string(ids[0]) == target:
            return int(ids[0])
        if target in self._ids:
            return self._ids[target]
        if len(ids) == 1:
            return int(ids[0])
        pieces = ", ".join(repr(self.string(index)) for index in ids) or "nothing"
        raise InputError(
            f"{target!r} is not one token but {len(ids)} ({pieces}): a target must be one; "
            "mind the leading space, or give a token id."
        )

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


def encode(
    tokenizer: Any,
    vocabulary: Vocabulary,
    text: Any,
    *,
    max_positions: int | None,
    add_bos: bool | None = None,
    padding_side: str = "right",
) -> Tokens:
    """Make the tokens that are fed from whatever a user may write.

    Parameters
    ----------
    text
        A string, a list of strings, token ids (list, or tensor of one or two
        dimensions), chat messages (a list of dicts with ``role`` and ``content``), or
        :class:`Tokens`.
    add_bos
        None: as the tokenizer does by itself.
    padding_side
        ``"right"`` or ``"left"``.

    Raises
    ------
    InputError
        If the text is empty, of an unknown kind, or longer than the model's context.
    """
    if isinstance(text, Tokens):
        return text
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side is 'left' or 'right', not {padding_side!r}.")
    rows, single = _rows(text)
    encoded = [_encode_row(tokenizer, vocabulary, row, add_bos) for row in rows]
    ids = [row_ids for row_ids, _, _ in encoded]
    for row_ids in ids:
        _check(row_ids, vocabulary, max_positions)
    length = max(map(len, ids))
    pad = next(
        (i for i in (getattr(tokenizer, n, None) for n in ("pad_token_id", "eos_token_id")) if i),
        0,
    )
    table = torch.full((len(ids), length), int(pad))
    mask = torch.zeros(len(ids), length, dtype=torch.bool)
    strings, continues = [], []
    for row, row_ids in enumerate(ids):
        gap = length - len(row_ids)
        start = gap if padding_side == "left" else 0
        table[row, start : start + len(row_ids)] = torch.tensor(row_ids)
        mask[row, start : start + len(row_ids)] = True
        texts, joins = vocabulary.split(row_ids)
        before, after = start, gap - start
        strings.append(("",) * before + texts + ("",) * after)
        continues.append((False,) * before + joins + (False,) * after)
    notes = dict.fromkeys(note for _, _, row_notes in encoded for note in row_notes)
    return Tokens(
        ids=table,
        mask=mask,
        texts=tuple(row_text for _, row_text, _ in encoded),
        strings=tuple(strings),
        continues=tuple(continues),
        single=single,
        notes=tuple(notes),
    )


def _rows(text: Any) -> tuple[list[Any], bool]:
    """The rows of a batch, and whether the user gave just one."""
    if isinstance(text, str):
        return [text], True
    if isinstance(text, Tensor):
        text = text.tolist()
    if not isinstance(text, Sequence) or isinstance(text, bytes):
        raise InputError(
            f"A text is a string, a list of strings, token ids or chat messages, not "
            f"{type(text).__name__}."
        )
    if not text:
        raise InputError("The text is empty: give at least one token.")
    if all(isinstance(item, dict) for item in text) or all(_is_id(item) for item in text):
        return [list(text)], True
    return list(text), False


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _encode_row(
    tokenizer: Any, vocabulary: Vocabulary, row: Any, add_bos: bool | None
) -> tuple[list[int], str | None, list[str]]:
    """Token ids of one row, the text they came from, and notes on what was done."""
    if isinstance(row, (list, tuple)) and row and all(_is_id(item) for item in row):
        return list(row), None, []
    if tokenizer is None:
        raise InputError("This model has no tokenizer: give token ids instead of a text.")
    if isinstance(row, (list, tuple)) and row and all(isinstance(item, dict) for item in row):
        if getattr(tokenizer, "chat_template", None) is None:
            raise InputError("This tokenizer has no chat template: give the prompt as one string.")
        row = tokenizer.apply_chat_template(row, tokenize=False, add_generation_prompt=True)
        add_bos = False if add_bos is None else add_bos
        notes = ["the chat template was applied"]
    elif isinstance(row, str):
        notes = []
    else:
        raise InputError(f"A text is a string or a list of token ids, not {row!r}.")
    return _with_bos(tokenizer, vocabulary, row, add_bos, notes)


def _with_bos(
    tokenizer: Any, vocabulary: Vocabulary, text: str, add_bos: bool | None, notes: list[str]
) -> tuple[list[int], str, list[str]]:
    bos = tokenizer.bos_token_id
    plain = list(tokenizer.encode(text, add_special_tokens=False))
    ids = list(tokenizer.encode(text, add_special_tokens=True)) if add_bos is None else plain
    if add_bos and bos is not None and plain[:1] != [bos]:
        ids = [bos, *plain]
    if bos is not None and ids[:2] == [bos, bos] and plain[:1] == [bos]:
        ids = ids[1:]
        notes = [*notes, "the text began with BOS already, so none was added"]
    elif bos is not None and ids[:1] == [bos] and plain[:1] != [bos]:
        notes = [*notes, f"BOS {vocabulary.string(bos)} was added in front"]
    if text != text.rstrip(" ") and not text.isspace():
        notes = [*notes, "the text ends in a space, which often makes predictions worse"]
    return ids, text, notes


def _check(ids: list[int], vocabulary: Vocabulary, max_positions: int | None) -> None:
    if not ids:
        raise InputError("The text is empty: give at least one token.")
    outside = [index for index in ids if not 0 <= index < vocabulary.size]
    if outside:
        raise InputError(
            f"Token id {outside[0]} does not exist: expected 0 to {vocabulary.size - 1}."
        )
    if max_positions is not None and len(ids) > max_positions:
        raise InputError(
            f"The text has {len(ids)} tokens, but the model takes at most {max_positions}: "
            "shorten it."
        )


def find_positions(tokens: Tokens, where: Any, row: int = 0) -> list[int]:
    """Positions (columns of ``tokens.ids``) that a specification names.

    Parameters
    ----------
    where
        None (all), an index (negative counts from the last real token), a slice, a list
        of these, or a string: the text of a token or of a span of tokens.

    Raises
    ------
    InputError
        If it lies outside the text, or the string occurs never or more than once.
    """
    real = tokens.mask[row].nonzero()[:, 0].tolist()
    if where is None:
        return real
    if isinstance(where, slice):
        return real[where]
    if isinstance(where, str):
        return _span(tokens, where, row, real)
    if isinstance(where, (list, tuple, range)):
        found = [position for item in where for position in find_positions(tokens, item, row)]
        return list(dict.fromkeys(found))
    index = int(where)
    if not -len(real) <= index < len(real):
        raise InputError(
            f"Position {index} does not exist: the text has {len(real)} tokens (0 to "
            f"{len(real) - 1})."
        )
    return [real[index]]


def _span(tokens: Tokens, text: str, row: int, real: list[int]) -> list[int]:
    owner: list[int] = []
    whole = ""
    for position in real:
        piece = tokens.strings[row][position]
        owner += [position] * len(piece)
        whole += piece
    starts = [match.start() for match in re.finditer(re.escape(text), whole)] if text else []
    if len(starts) != 1:
        how = "does not occur in" if not starts else f"occurs {len(starts)} times in"
        raise InputError(f"{text!r} {how} the text: name positions by index, or a unique span.")
    covered = set(owner[starts[0] : starts[0] + len(text)])
    first, last = min(covered), max(covered)
    while last + 1 in real and tokens.continues[row][last + 1]:
        last += 1
    return [position for position in real if first <= position <= last]
