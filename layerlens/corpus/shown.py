"""Which texts of ``ll.texts`` a person can read all of, and the same with other words."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from layerlens.corpus.held import is_empty
from layerlens.corpus.texts import Texts

MOST_TEXTS = 20
MOST_LONG = 2000
"""Characters (or token ids) of all of them."""


def few(texts: Texts) -> list[Any] | None:
    """The texts themselves where they are few and short; None where only their call says more.

    Texts of files, datasets and iterators are not read for it, and rows that are cut from texts
    are not the texts.

    Raises
    ------
    InputError
        A record has no such field.

    Examples
    --------
    >>> import layerlens as ll
    >>> few(ll.texts(["cat dog", "", "owl fox"], label=[0, 0, 1]))
    ['cat dog', 'owl fox']
    >>> few(ll.texts(["cat dog"] * 100)) is None
    True
    """
    if not isinstance(texts.source, list | tuple) or texts.in_files or texts.reading.in_rows:
        return None
    found = list(islice((text for text in texts if not is_empty(text)), MOST_TEXTS + 1))
    readable = all(isinstance(text, str | list | tuple) for text in found)
    if not readable or len(found) > MOST_TEXTS or sum(map(len, found)) > MOST_LONG:
        return None
    return found


@lru_cache(maxsize=16)
def reworded(texts: Texts, words: tuple[str, ...]) -> Texts:
    """Other words in the places of texts, each with the label and the group of the one before.

    The same object for the same words, so that a question is known again.

    Raises
    ------
    InputError
        There are more or fewer of them.

    Examples
    --------
    >>> import layerlens as ll
    >>> again = reworded(ll.texts(["cat dog", "owl fox"], label=["pets", "wild"]), ("cat", "owl"))
    >>> [(item.text, item.label) for item in again.items()]
    [('cat', 'pets'), ('owl', 'wild')]
    >>> again.code
    "ll.texts(['cat', 'owl'], label=['pets', 'wild'])"
    """
    items = [item for item in texts.items() if not is_empty(item.text)]
    label = None if texts.label is None else [item.label for item in items]
    group = None if texts.group is None else [item.group for item in items]
    reading = replace(texts.reading, field=None, limit=None)
    found = Texts(list(words), reading, label, group).with_bos(texts.add_bos)
    found.literal = True
    return found
