"""What a map shows: a text or a token each, with its words and its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.fitting.documents import text_of
from layerlens.analyses.probing.examples import EACH, Where, examples_of
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel

MOST_LABELS = 40
"""More marks than this are not told apart."""
AROUND = 4
"""Tokens that stand on either side of one that is shown."""
LONGEST = 300
"""Characters of a text that are kept."""


@dataclass(frozen=True)
class Items:
    """States that are shown.

    Attributes
    ----------
    words
        What each is: a text, or a token with those around it.
    text
        ``[n]``: the text of each.
    names
        The labels there are, in order.
    label
        ``[n]``: the number of the label of each among these; -1 for none.
    unit
        ``[n]``: the text of each where labels are of texts, else each its own.
    kept
        ``[n]``: the number of each among the states that were recorded.
    """

    words: list[str]
    text: np.ndarray
    names: list[str]
    label: np.ndarray
    unit: np.ndarray
    kept: np.ndarray

    def among(self, kept: np.ndarray) -> Items:
        """Some of them."""
        words = [self.words[i] for i in kept]
        named = (self.text[kept], self.names, self.label[kept], self.unit[kept])
        return Items(words, *named, self.kept[kept])


def items_of(
    model: LensModel,
    rows: Sequence[Row],
    where: Where,
    labels: Sequence[Any] | None,
    skipped: int = 0,
) -> Items:
    """The states that `layerlens.analyses.probing.examples.recorded` keeps of rows, in its order.

    Parameters
    ----------
    rows
        In the order in which they are read.
    labels
        Of each text, or of each token of each; None entries have none.
    skipped
        Tokens at the beginning of each text that are left out, where each is shown.

    Raises
    ------
    InputError
        Their number does not fit, or there are too many different ones.
    """
    words: list[str] = []
    text: list[int] = []
    for row in rows:
        strings = [model.token_string(index) for index in row.ids]
        if where == EACH:
            words += [_around(strings, at) for at in range(len(strings))]
        else:
            words.append("".join(strings)[:LONGEST])
        text += [text_of(row)] * len(examples_of(row, where))
    of = np.array(text)
    every = np.arange(len(of))
    kept = every
    if where == EACH:
        place = np.concatenate([np.arange(len(row.ids)) for row in rows])
        kept = np.flatnonzero(place >= skipped)
        if not len(kept):
            raise InputError(f"skip_first is {skipped}, and no text has more tokens: skip fewer.")
    if labels is None:
        return Items(words, of, [], np.full(len(of), -1), of, every).among(kept)
    flat, by_text = _flat(labels, of, where)
    known = sorted({str(label) for label in flat if label is not None})
    if len(known) > MOST_LABELS:
        raise InputError(
            f"There are {len(known)} labels, and {MOST_LABELS} can be told apart in a picture: "
            "join some."
        )
    number = {name: place for place, name in enumerate(known)}
    label = np.array([-1 if one is None else number[str(one)] for one in flat])
    return Items(words, of, known, label, of if by_text else every, every).among(kept)


def _around(strings: Sequence[str], at: int) -> str:
    before, after = strings[max(0, at - AROUND) : at], strings[at + 1 : at + 1 + AROUND]
    return f"{''.join(before)}[{strings[at]}]{''.join(after)}"


def _flat(labels: Sequence[Any], text: np.ndarray, where: Where) -> tuple[list[Any], bool]:
    """The label of each item, and whether all items of a text have its label."""
    texts = int(text.max()) + 1
    if len(labels) != texts:
        raise InputError(f"There are {len(labels)} labels and {texts} texts: give one for each.")
    inner = [isinstance(one, list | tuple | np.ndarray) for one in labels]
    if where != EACH or not any(inner):
        return [labels[number] for number in text], True
    if not all(inner):
        raise InputError("Some texts have a label and others one for each token: choose.")
    flat = [label for own in labels for label in own]
    if len(flat) != len(text):
        raise InputError(
            f"There are {len(flat)} labels and {len(text)} tokens (one that is put in front "
            "counts): give one for each token, None for those that have none."
        )
    return flat, False


def labels_of(job: Job, labels: Sequence[Any] | None) -> Sequence[Any] | None:
    """The labels of the texts, from the call or from the texts themselves.

    Raises
    ------
    InputError
        Both have some.
    """
    own = job.labels(needed=False)
    if labels is not None and own:
        raise InputError("The texts have labels of their own: leave labels out, or give a list.")
    return labels if labels is not None else own or None


def labels_of_others(texts: Any, labels: Sequence[Any] | None) -> Sequence[Any] | None:
    """The labels of other texts, from the call or from the texts; None for none."""
    own = [item.label for item in texts.items()] if isinstance(texts, Texts) else []
    return labels if labels is not None or all(label is None for label in own) else own
