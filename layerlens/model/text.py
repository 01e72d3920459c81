"""From what a user writes to the tokens that are really fed, and to positions in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.grid import Frames, Grid
from layerlens.model.integers import is_whole, whole
from layerlens.model.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens that a pass is fed.

    Two are equal when the same rows of the same vocabulary are fed.

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
    vocabulary
        Fingerprint of the vocabulary that the ids are numbers of; "" where there is none.
    given
        What the model is fed besides, by keyword, one row for each: the pixels of pictures or
        the samples of sounds, whose positions are then numbered by ``ids``, or the text that a
        decoder writes an answer to.
    grid
        Where the positions lie in each picture or sound; None for text.
    numbered
        The ids only number the positions: they say nothing of what is there.
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
    vocabulary: str = ""
    given: Mapping[str, Tensor] = field(default_factory=dict)
    grid: Grid | Frames | None = None
    numbered: bool = False

    def __post_init__(self) -> None:
        rows = {name: len(value) for name, value in self.given.items()}
        if any(count != len(self.ids) for count in rows.values()):
            raise ValueError(f"{len(self.ids)} rows of tokens, but {rows} of what is given besides")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        same = torch.equal(self.ids, other.ids) and torch.equal(self.mask, other.mask)
        alike = (self.single, self.vocabulary) == (other.single, other.vocabulary)
        return same and alike and self.given_alike(other)

    def __hash__(self) -> int:
        return hash((self.ids.shape, self.ids.numpy().tobytes(), self.single, self.vocabulary))

    def chosen(self, rows: Sequence[int], columns: Sequence[int] | None = None) -> Tokens:
        """Some rows, in this order, and of these some columns; None for all."""
        rows = list(rows)
        kept = list(range(self.ids.shape[1])) if columns is None else list(columns)

        def pick(table: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
            return tuple(tuple(table[row][k] for k in kept if table[row]) for row in rows)

        return replace(
            self,
            ids=self.ids[rows][:, kept],
            mask=self.mask[rows][:, kept],
            texts=tuple(self.texts[row] for row in rows),
            strings=pick(self.strings),
            continues=pick(self.continues),
            given={name: value[rows] for name, value in self.given.items()},
        )

    def joined(self, others: Sequence[Tokens]) -> Tokens:
        """These rows and then those of others, all of one length and kind."""
        all_of_them = (self, *others)
        return replace(
            self,
            ids=torch.cat([each.ids for each in all_of_them]),
            mask=torch.cat([each.mask for each in all_of_them]),
            texts=sum((each.texts for each in all_of_them), ()),
            strings=sum((each.strings for each in all_of_them), ()),
            continues=sum((each.continues for each in all_of_them), ()),
            given={
                name: torch.cat([each.given[name] for each in all_of_them]) for name in self.given
            },
            single=False,
        )

    def given_alike(self, other: Tokens) -> bool:
        """Whether both are given the same besides their ids."""
        same = self.given.keys() == other.given.keys()
        return same and all(torch.equal(value, other.given[n]) for n, value in self.given.items())

    @property
    def plain(self) -> Tokens:
        """The same in tensors of their own, which autograd can keep wherever they were made."""
        given = {name: value.clone() for name, value in self.given.items()}
        return replace(self, ids=self.ids.clone(), mask=self.mask.clone(), given=given)

    def repeated(self, times: int) -> Tokens:
        """All rows again and again, as a batch."""
        return replace(self.chosen([*range(len(self.ids))] * times), single=False)

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
        A string, a list of strings, token ids (a list, or an array or tensor of one or two
        dimensions), chat messages (a list of dicts with ``role`` and ``content``), or
        :class:`Tokens` of this vocabulary.
    add_bos
        None: as the tokenizer does by itself.
    padding_side
        ``"right"`` or ``"left"``.

    Raises
    ------
    InputError
        If the text is empty, of an unknown kind, longer than the model's context, made of words
        that are not in the vocabulary, or of tokens of another one.
    """
    if isinstance(text, Tokens):
        given = _of_this(text, vocabulary, max_positions)
        return given if add_bos is None else replace(given, add_bos=add_bos)
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side is 'left' or 'right', not {padding_side!r}.")
    rows, single = _rows(text)
    encoded = [_encode_row(tokenizer, vocabulary, row, add_bos) for row in rows]
    ids = [row_ids for row_ids, _, _ in encoded]
    for row_ids in ids:
        _check(row_ids, vocabulary, max_positions)
    length = max(map(len, ids))
    table = torch.full((len(ids), length), _padding(tokenizer, vocabulary))
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
        vocabulary=vocabulary.fingerprint,
    )


def _padding(tokenizer: Any, vocabulary: Vocabulary) -> int:
    """What stands at padding; a token that was added to a tokenizer alone cannot be fed."""
    known = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(i) for i in known if i is not None and i < vocabulary.fed), 0)


def _of_this(tokens: Tokens, vocabulary: Vocabulary, max_positions: int | None) -> Tokens:
    """Tokens that were made before, if they mean the same here."""
    for ids, mask in zip(tokens.ids, tokens.mask, strict=True):
        _check(ids[mask].tolist(), vocabulary, max_positions)
    made, here = tokens.vocabulary, vocabulary.fingerprint
    if not made or not here or made == here:
        return tokens
    for ids, mask, strings in zip(tokens.ids, tokens.mask, tokens.strings, strict=True):
        real = ids[mask].tolist()
        before = [text for text, keep in zip(strings, mask.tolist(), strict=True) if keep]
        for index, was, now in zip(real, before, vocabulary.split(real)[0], strict=True):
            if was != now:
                raise InputError(
                    f"These tokens were made with another tokenizer: {index} is {was!r} there and "
                    f"{now!r} in this model; give the text itself."
                )
    return tokens


def _rows(text: Any) -> tuple[list[Any], bool]:
    """The rows of a batch, and whether the user gave just one."""
    if isinstance(text, str):
        return [text], True
    if isinstance(text, Mapping):
        have = "its ['input_ids']" if "input_ids" in text else "the text that it is about"
        raise InputError(f"A text is not a {type(text).__name__}: give {have}.")
    if hasattr(text, "tolist"):
        text = text.tolist()
    if is_whole(text):
        raise InputError(f"A text is a list of token ids, not one number: write [{text}].")
    if not isinstance(text, Sequence) or isinstance(text, bytes):
        raise InputError(
            f"A text is a string, a list of strings, token ids or chat messages, not "
            f"{type(text).__name__}."
        )
    if not text:
        raise InputError("The text is empty: give at least one token.")
    if all(isinstance(item, dict) for item in text) or all(map(is_whole, text)):
        return [list(text)], True
    return [row.tolist() if hasattr(row, "tolist") else row for row in text], False


def _is_chat(row: Any) -> bool:
    return isinstance(row, list | tuple) and bool(row) and all(isinstance(i, dict) for i in row)


def _encode_row(
    tokenizer: Any, vocabulary: Vocabulary, row: Any, add_bos: bool | None
) -> tuple[list[int], str | None, list[str]]:
    """Token ids of one row, the text they came from, and notes on what was done."""
    if isinstance(row, (list, tuple)) and row and all(map(is_whole, row)):
        return [whole(item, "a token id") for item in row], None, []
    if row == "" or row == []:
        raise InputError("The text is empty: give at least one token.")
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
    return ids, text, [*notes, *_unknown(tokenizer, vocabulary, text, plain)]


def _unknown(tokenizer: Any, vocabulary: Vocabulary, text: str, ids: list[int]) -> list[str]:
    """Remark on words that are not in the vocabulary; refuse a text of nothing else."""
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown not in ids or vocabulary.string(unknown) in text:
        return []
    first = _first_unknown(tokenizer, text, unknown)
    fed, count = vocabulary.string(unknown), ids.count(unknown)
    form = f"; the model knows {vocabulary.form}" if vocabulary.form else ""
    if count == len(ids):
        raise InputError(f"Nothing of {text!r} is in the vocabulary, all would be {fed}{form}.")
    return [f"{count} of {len(ids)} tokens are {fed}: {first} is not in the vocabulary{form}"]


def _first_unknown(tokenizer: Any, text: str, unknown: int) -> str:
    """The first part of a text that is not in the vocabulary, where the tokenizer can say."""
    if not getattr(tokenizer, "is_fast", False):
        return "a word"
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start, end = found["offset_mapping"][found["input_ids"].index(unknown)]
    return repr(text[start:end])


def _check(ids: list[int], vocabulary: Vocabulary, max_positions: int | None) -> None:
    if not ids:
        raise InputError("The text is empty: give at least one token.")
    outside = [index for index in ids if not 0 <= index < vocabulary.fed]
    if outside:
        raise InputError(
            f"Token id {outside[0]} does not exist: expected 0 to {vocabulary.fed - 1}."
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
        None (all), an index (negative counts from the last real token), a slice, a string (the
        text of a token or of a span of tokens), or a list or array of these.

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
    if hasattr(where, "tolist"):
        where = where.tolist()
    if isinstance(where, (list, tuple, range)):
        found = [position for item in where for position in find_positions(tokens, item, row)]
        return list(dict.fromkeys(found))
    if not is_whole(where):
        raise InputError(
            "A position is named by its index, a slice, the text of a token or span, or a list of "
            f"these, not by {where!r}."
        )
    index = whole(where, "position")
    if not -len(real) <= index < len(real):
        raise InputError(
            f"Position {index} does not exist: the text has {len(real)} tokens (0 to "
            f"{len(real) - 1})."
        )
    return [real[index]]


def _span(tokens: Tokens, text: str, row: int, real: list[int]) -> list[int]:
    owner: list[int] = []
    all_of_it = ""
    for position in real:
        piece = tokens.strings[row][position]
        owner += [position] * len(piece)
        all_of_it += piece
    # Looking ahead finds those that overlap, too.
    found = re.finditer(f"(?={re.escape(text)})", all_of_it) if text else ()
    starts = [match.start() for match in found]
    if len(starts) != 1:
        how = "does not occur in" if not starts else f"occurs {len(starts)} times in"
        raise InputError(f"{text!r} {how} the text: name positions by index, or a unique span.")
    covered = set(owner[starts[0] : starts[0] + len(text)])
    first, last = min(covered), max(covered)
    while last + 1 in real and tokens.continues[row][last + 1]:
        last += 1
    return [position for position in real if first <= position <= last]
