"""How a corpus is asked to be read, what was read of it, and what can be read so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

from layerlens.corpus.files import SPLITS
from layerlens.errors import InputError

LONG = ("split", "cut")


@dataclass(frozen=True)
class Reading:
    """How texts are read and become rows of tokens.

    Attributes
    ----------
    field, split, limit, limit_tokens, pack, length, long
        See :func:`texts`.
    """

    field: str | None = None
    split: str = "paragraph"
    limit: int | None = None
    limit_tokens: int | None = None
    pack: bool = False
    length: int | None = None
    long: str = "split"

    def __post_init__(self) -> None:
        for name, known in (("split", SPLITS), ("long", LONG)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, known))}."
                )
        for name, least in (("limit", 1), ("limit_tokens", 1), ("length", 2)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) < least):
                raise InputError(f"{name} is {value!r}; expected a number from {least}, or None.")

    @property
    def in_rows(self) -> bool:
        """Whether it asks for rows of tokens, and not for the texts as they are."""
        return self.pack or self.length is not None or self.limit_tokens is not None


@dataclass
class Counts:
    """What was read of a corpus.

    Attributes
    ----------
    texts
        Texts with tokens.
    tokens
        Tokens in rows.
    rows
        Rows that a model is fed: texts, pieces of texts, or packed stretches.
    empty
        Texts without anything but white space; they are left out.
    cut, split
        Texts longer than a row, cut off or split into several.
    """

    texts: int = 0
    tokens: int = 0
    rows: int = 0
    empty: int = 0
    cut: int = 0
    split: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name):,} {f.name}" for f in fields(self))


class Source(Protocol):
    """Texts one after the other, and how they become rows."""

    reading: Reading
    add_bos: bool | None

    def read(self) -> Iterator[tuple[Any, float | None]]:
        """Each text, and the share of the source read by then, if known."""
