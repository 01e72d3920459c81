"""A corpus as a list, for analyses that hold all of their texts at once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from layerlens.corpus.rows import Rows
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel

MOST = 4096
"""Texts that are held at once at most: more are a mistake, or are for ``ll.layer_metrics``."""


def held(texts: Texts, model: LensModel) -> list[Any]:
    """The texts of a corpus, or its rows of token ids where it says how long a row is.

    Empty texts are left out, as they are wherever a corpus is read.

    Parameters
    ----------
    texts
        Read to its limits.
    model
        Whose tokenizer makes the rows.

    Raises
    ------
    InputError
        If there is no text with a token, or more than ``MOST``.

    Examples
    --------
    >>> import layerlens as ll
    >>> held(ll.texts(["cat dog", "", "owl"], limit=3), ll.load("toy:induction"))
    ['cat dog', 'owl']
    """
    if texts.reading.in_rows:
        found: list[Any] = [row.ids for row in islice(Rows(texts, model), MOST + 1)]
    else:
        full = (text for text in texts if not is_empty(text))
        found = list(islice(full, MOST + 1))
    if not found:
        raise InputError("The corpus has no text with a token: check its field and its limit.")
    if len(found) > MOST:
        raise InputError(
            f"These are more than {MOST:,} texts, and this analysis holds all of them at once: "
            "give ll.texts(..., limit=), or measure the corpus with ll.layer_metrics."
        )
    return found


def is_empty(text: Any) -> bool:
    """Whether a text of a corpus is left out: it has nothing but white space, or no token ids."""
    if isinstance(text, str):
        return not text.strip()
    return text is None or not len(text)
