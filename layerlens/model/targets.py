"""The one token that an answer names, as it would follow the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from layerlens.errors import InputError
from layerlens.model.integers import is_whole, whole
from layerlens.model.labels import Labels

if TYPE_CHECKING:
    from layerlens.model.vocabulary import Vocabulary


class Choice(NamedTuple):
    """A token that was chosen, and what a reader should know of the choice (None: nothing)."""

    id: int
    note: str | None = None


def choose(vocabulary: Vocabulary, target: Any, before: str | None = None) -> Choice:
    """Choose the token that a target names.

    The token is, in this order: what the tokenizer makes of the target right behind the text
    before it; the entry that reads exactly like it (``"A"`` is not ``" A"``; an entry for a single
    byte only where no other spells it); the one token that the tokenizer makes of it alone, such
    as the word with a space in front where it puts one before every word.

    Parameters
    ----------
    target
        A string, or the number of a token.
    before
        The text that it answers, where it is known.

    Raises
    ------
    InputError
        If it is several tokens or none, is not in the vocabulary, or is none that the head has.
    """
    if not isinstance(target, str):
        return Choice(_numbered(vocabulary, target))
    if isinstance(vocabulary, Labels):
        if (index := vocabulary.ids.get(target)) is not None:
            return Choice(index)
        raise InputError(f"There is no class {target!r}: {_classes(vocabulary.labels)}.")
    if vocabulary.tokenizer is None:
        raise InputError(
            f"{target!r} cannot be looked up: this model has no tokenizer; give a token id."
        )
    if not target:
        raise InputError("The answer is an empty text: name one token, or give its id.")
    alone = vocabulary.encode(target)
    found = _behind(vocabulary, target, before)
    if found is None and len(alone) == 1 and vocabulary.string(alone[0]) == target:
        found = alone[0]
    if found is None:
        found = vocabulary.ids.get(target)
    if found is None:
        found = _alone(vocabulary, target, alone)
    if found >= vocabulary.size:
        raise InputError(
            f"{target!r} is token {found}, but the head has {vocabulary.size} rows (0 to "
            f"{vocabulary.size - 1}): this model can be fed it and cannot answer it."
        )
    return Choice(found, _note(vocabulary, target, found, alone))


def _numbered(vocabulary: Vocabulary, target: Any) -> int:
    if not is_whole(target):
        raise InputError(f"A token is named by its text or its id, not by {target!r}.")
    index = whole(target, "token")
    if not 0 <= index < vocabulary.size:
        raise InputError(
            f"Token id {index} does not exist in the head: expected 0 to {vocabulary.size - 1}."
        )
    return index


def _behind(vocabulary: Vocabulary, target: str, before: str | None) -> int | None:
    """What the target becomes right behind a text, where that is one token that reads like it."""
    if not before:
        return None
    start, whole_text = vocabulary.encode(before), vocabulary.encode(before + target)
    if whole_text[:-1] != start:
        return None
    return whole_text[-1] if vocabulary.string(whole_text[-1]) in (target, f" {target}") else None


def _alone(vocabulary: Vocabulary, target: str, alone: list[int]) -> int:
    """The one token that the tokenizer makes of a target by itself."""
    unknown = getattr(vocabulary.tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in alone:
        form = f"; the model knows {vocabulary.form}" if vocabulary.form else ""
        raise InputError(
            f"{target!r} is not in the vocabulary (the tokenizer makes "
            f"{vocabulary.string(unknown)} of it): name a token that it has{form}."
        )
    if len(alone) == 1:
        return alone[0]
    pieces = ", ".join(repr(vocabulary.string(index)) for index in alone) or "nothing"
    raise InputError(
        f"{target!r} is not one token but {len(alone)} ({pieces}): a target must be one; "
        "mind the leading space, or give a token id."
    )


def _note(vocabulary: Vocabulary, target: str, found: int, alone: list[int]) -> str | None:
    read = vocabulary.string(found)
    if read != target:
        return f"{target!r} was read as the token {read!r} (id {found})"
    if alone != [found] and len(alone) == 1 and vocabulary.string(alone[0]) == f" {target}":
        return (
            f"{target!r} is the token without a space in front (id {found}); {' ' + target!r} is "
            f"another one (id {alone[0]})"
        )
    return None


def _classes(labels: list[str], most: int = 8) -> str:
    """Name some labels: ``the classes are cat, dog``."""
    shown = ", ".join(labels[:most])
    return f"the classes are {shown}" + (", ..." if len(labels) > most else "")
