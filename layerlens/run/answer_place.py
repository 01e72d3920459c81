"""Where a text is answered: at its end, at a mask, or where a classifier reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.errors import InputError
from layerlens.model.text import Tokens

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def answer_place(model: LensModel, tokens: Tokens) -> int:
    """Position whose prediction is the model's answer to one text.

    The last one; of a classifier the one that its head reads. A model that reads in both
    directions predicts no next token: it answers at the mask token, and what it says elsewhere it
    has seen.

    Parameters
    ----------
    tokens
        One text without padding.

    Raises
    ------
    InputError
        If a model that reads in both directions is given a text without just one mask token, or
        the model answers at all positions or from several.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> answer_place(model, model.tokens("cat dog owl cat"))
    4
    """
    length = int(tokens.ids.shape[1])
    pool = None if model.anatomy.head is None else model.anatomy.head.pool
    if pool is not None:
        if pool.position is None:
            raise InputError(
                f"{model.name} answers from several positions at once ({pool.how}), so no one of "
                "them is where it answers: ask for what looks at all positions."
            )
        return range(length)[pool.position]
    if not model.answers_words and model.bidirectional:
        raise InputError(
            f"{model.name} answers at each of its positions on what is there, and not once: ask "
            "for what looks at all positions."
        )
    if not model.bidirectional:
        return length - 1
    mask = getattr(model.tokenizer, "mask_token_id", None)
    if mask is None:
        raise InputError(
            f"{model.name} reads in both directions, so that it answers at a mask token, and no "
            "tokenizer says which one that is: load it with its tokenizer."
        )
    places = (tokens.ids[0] == mask).nonzero()[:, 0].tolist()
    if len(places) != 1:
        raise InputError(
            f"{model.name} reads in both directions, so that it answers at a mask token: put one "
            f"{model.tokenizer.mask_token!r} into the text, which has {len(places)}."
        )
    return int(places[0])
