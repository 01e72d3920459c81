"""From texts to the rows of tokens that a model is fed, and to shards of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.corpus.reading import Counts, Source
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

PIECE = 1 << 30
"""What the numbers of two neighbouring pieces of one text differ by. It is a multiple of the
number of groups that intervals resample, so that all pieces of a text are drawn together."""

SHARD_BATCHES = 4
"""Tokens of a shard, in units of those of a batch."""


@dataclass(frozen=True)
class Row:
    """One row: its number among all, whatever the sharding, and its token ids."""

    number: int
    ids: list[int]


class Encoder:
    """Makes token ids of texts, and knows what goes in front of and behind each row."""

    def __init__(self, model: LensModel, add_bos: bool | None, *, pack: bool) -> None:
        self._tokenizer = model.tokenizer
        self._vocabulary = model.d_vocab_in
        self.lead: list[int] = []
        self.tail: list[int] = []
        if self._tokenizer is not None:
            self._find_ends(add_bos)
        self.joiner = self._end_token() if pack else None

    def _find_ends(self, add_bos: bool | None) -> None:
        """Find what the tokenizer puts around a text by itself."""
        bos = self._tokenizer.bos_token_id
        if add_bos is not None:
            self.lead = [bos] if add_bos and bos is not None else []
            return
        plain = self._plain("a")
        around = list(self._tokenizer.encode("a", add_special_tokens=True))
        extra = len(around) - len(plain)
        start = next((i for i in range(extra + 1) if around[i : i + len(plain)] == plain), 0)
        self.lead, self.tail = around[:start], around[start + len(plain) :]

    def _end_token(self) -> int:
        end = getattr(self._tokenizer, "eos_token_id", None)
        if end is None:
            raise InputError(
                "Texts cannot be packed: the tokenizer has no end token to join them with; set "
                "model.tokenizer.eos_token, or leave pack out."
            )
        return int(end)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode(self, text: Any, number: int) -> tuple[list[int], bool]:
        """Token ids of a text without what goes around a row, and whether that goes around it.

        Nothing goes around token ids: they are what is fed. Empty for an empty text.
        """
        if text is None or (isinstance(text, str) and not text.strip()):
            return [], False
        if isinstance(text, str):
            if self._tokenizer is None:
                raise InputError("This model has no tokenizer: give token ids instead of texts.")
            ids = self._plain(text)
            led = self.lead and ids[: len(self.lead)] == self.lead
            return (ids[len(self.lead) :] if led else ids), True
        if hasattr(text, "tolist"):
            text = text.tolist()
        known = isinstance(text, list | tuple) and all(type(item) is int for item in text)
        if not known:
            raise InputError(
                f"Text {number} is a {type(text).__name__}; expected a string, or a list of token "
                "ids."
            )
        if text and not 0 <= min(text) <= max(text) < self._vocabulary:
            raise InputError(
                f"Text {number} has a token id that does not exist: expected 0 to "
                f"{self._vocabulary - 1}."
            )
        return list(text), False


class Rows:
    """The rows that a model is fed for a corpus, one after the other.

    Parameters
    ----------
    texts
        The corpus.
    model
        Whose tokenizer and context are meant.
    most
        Longest row where the texts say nothing, if the model's context is not shorter.

    Attributes
    ----------
    length
        Tokens in a row at most.
    counts
        What was read so far.
    share
        Share of the corpus read so far, 0 to 1; None where its size is not known.
    """

    def __init__(
        self,
        texts: Source,
        model: LensModel,
        most: int | None = None,
    ) -> None:
        self._texts = texts
        self._how = texts.reading
        self._encoder = Encoder(model, texts.add_bos, pack=self._how.pack)
        self.length = _length(self._how.length, model.max_positions, most)
        self._room(around=True)
        self.counts = Counts()
        self.share: float | None = None

    def _room(self, *, around: bool) -> int:
        """How many tokens of a text a row has room for."""
        used = len(self._encoder.lead) + len(self._encoder.tail) if around else 0
        if self.length <= used:
            raise InputError(
                f"A row of {self.length} tokens has no room for a text beside the {used} that the "
                "tokenizer adds: give a larger length."
            )
        return self.length - used

    def __iter__(self) -> Iterator[Row]:
        for row in self._packed() if self._how.pack else self._padded():
            self.counts.rows += 1
            self.counts.tokens += len(row.ids)
            yield row

    def count(self) -> Counts:
        """Read to the end and say what there was."""
        for _ in self:
            pass
        return self.counts

    def _encoded(self) -> Iterator[tuple[int, list[int], bool]]:
        """Number, ids and whether the tokenizer's own tokens go around, of texts with tokens."""
        how, read = self._how, 0
        for number, (text, share) in enumerate(self._texts.read()):
            if number == how.limit or (how.limit_tokens and read >= how.limit_tokens):
                self.share = 1.0
                return
            ids, around = self._encoder.encode(text, number)
            read += len(ids)
            shares = [share, how.limit and (number + 1) / how.limit]
            shares += [how.limit_tokens and read / how.limit_tokens]
            self.share = max((min(part, 1.0) for part in shares if part is not None), default=None)
            if not ids:
                self.counts.empty += 1
                continue
            self.counts.texts += 1
            yield number, ids, around

    def _padded(self) -> Iterator[Row]:
        for number, ids, around in self._encoded():
            room = self._room(around=around)
            pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
            if len(pieces) > 1 and self._how.long == "cut":
                self.counts.cut += 1
                pieces = pieces[:1]
            elif len(pieces) > 1:
                self.counts.split += 1
            for index, piece in enumerate(pieces):
                yield Row(number + index * PIECE, self._around(piece) if around else piece)

    def _packed(self) -> Iterator[Row]:
        """Rows of one long stream, in which each text is followed by the end token."""
        room = self._room(around=True)
        stream: list[int] = []
        number = 0
        for _, ids, _ in self._encoded():
            stream += [*ids, self._encoder.joiner or 0]
            whole = len(stream) // room * room
            for start in range(0, whole, room):
                yield Row(number, self._around(stream[start : start + room]))
                number += 1
            stream = stream[whole:]
        if stream:
            yield Row(number, self._around(stream))

    def _around(self, ids: list[int]) -> list[int]:
        return [*self._encoder.lead, *ids, *self._encoder.tail]

    def remarks(self) -> list[str]:
        """Sentences on what was done to the texts."""
        counts, said = self.counts, []
        if self._how.pack:
            said.append(
                f"texts were joined by the end token and cut into rows of {self.length} tokens, so "
                "tokens also see other texts before their own"
            )
        for number, what in ((counts.cut, "cut off"), (counts.split, "split into rows")):
            if number:
                said.append(f"{number} of {counts.texts} texts were {what} at {self.length} tokens")
        if counts.empty:
            said.append(f"{counts.empty} empty texts were left out")
        return said


def _length(asked: int | None, context: int | None, most: int | None) -> int:
    if asked is not None:
        if context is not None and asked > context:
            raise InputError(
                f"length is {asked}, but the model takes at most {context} tokens: give less."
            )
        if most is not None and asked > most:
            raise InputError(
                f"A row of {asked} tokens does not fit into a batch of {most}: raise "
                "batch_tokens, or lower length."
            )
        return asked
    return min((limit for limit in (context, most) if limit is not None), default=1 << 62)


@dataclass(frozen=True)
class Shard:
    """Some rows that are measured together.

    Attributes
    ----------
    number
        From 0.
    rows
        In the order of the corpus.
    share
        Share of the corpus read with it; None where its size is not known.
    """

    number: int
    rows: tuple[Row, ...]
    share: float | None

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return sum(len(row.ids) for row in self.rows)

    def content(self) -> bytes:
        """Its rows as bytes, to tell whether a corpus is the same."""
        numbers = [value for row in self.rows for value in (row.number, len(row.ids), *row.ids)]
        return np.array(numbers, dtype="<i8").tobytes()


def shards(rows: Iterable[Row], tokens: int) -> Iterator[Shard]:
    """Cut a corpus into shards, always the same ones: each ends with the row that reaches a size.

    Parameters
    ----------
    rows
        Of a corpus, or any others; of these the share that is read by then is not known.
    tokens
        That size.
    """
    number, size = 0, 0
    held: list[Row] = []
    for row in rows:
        held.append(row)
        size += len(row.ids)
        if size >= tokens:
            yield Shard(number, tuple(held), _share(rows))
            number, held, size = number + 1, [], 0
    if held:
        yield Shard(number, tuple(held), _share(rows))


def _share(rows: Iterable[Row]) -> float | None:
    return rows.share if isinstance(rows, Rows) else None
