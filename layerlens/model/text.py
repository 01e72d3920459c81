"""From what a user writes to the tokens that are really fed, and to positions in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.vocabulary import Vocabulary


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
    add_bos
        As it was asked for; further texts of the same run are read alike.
    chat
        Chat messages were given, whose template sees to BOS itself.
    """

    ids: Tensor
    mask: Tensor
    texts: tuple[str | None, ...]
    strings: tuple[tuple[str, ...], ...]
    continues: tuple[tuple[bool, ...], ...]
    single: bool
    notes: tuple[str, ...] = ()
    add_bos: bool | None = None
    chat: bool = False

    @property
    def lengths(self) -> list[int]:
        """Number of real tokens in each row."""
        return [int(count) for count in self.mask.sum(-1)]

    @property
    def position_ids(self) -> Tensor:
        """``[batch, position]``: positions counted from the first real token of each row."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)


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
        return text if add_bos is None else replace(text, add_bos=add_bos)
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
        add_bos=add_bos,
        chat=any(_is_chat(row) for row in rows),
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


def _is_chat(row: Any) -> bool:
    return isinstance(row, list | tuple) and bool(row) and all(isinstance(i, dict) for i in row)


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
    if _is_chat(row):
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
