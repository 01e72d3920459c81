"""Where a text is answered: at its end, or at the mask of a model that reads both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.errors import InputError
from layerlens.model.text import Tokens

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def answer_place(model: LensModel, tokens: Tokens) -> int:
    """Position whose prediction is the model's answer to one text.

    The last one. A model that reads in both directions predicts no next token: it answers at the
    mask token, and what it says elsewhere it has seen.

    Parameters
    ----------
    tokens
        One text without padding.

    Raises
    ------
    InputError
        If a model that reads in both directions is given a text without just one mask token.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> answer_place(model, model.tokens("cat dog owl cat"))
    4
    """
    length = int(tokens.ids.shape[1])
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
