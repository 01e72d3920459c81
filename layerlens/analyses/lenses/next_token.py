"""Which token each prediction of a lens is measured against: the next one, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerlens.analyses.texts.chosen_positions import Cells
    from layerlens.model.lensmodel import LensModel


class Targets(NamedTuple):
    """What the rows of a lens are measured against.

    Attributes
    ----------
    id
        ``[N]`` int64, the token; -1 where there is none.
    own
        Indices of the rows that are measured against the model's own answer.
    remark
        What a reader should know, or None.
    """

    id: np.ndarray
    own: np.ndarray
    remark: str | None


def targets_of(model: LensModel, cells: Cells) -> Targets:
    """The next token at each position, and at the end of a text the model's own answer.

    A bidirectional model has no next token: there the model's own answer at every mask token is
    the target, and other positions have none. A token that the head has no row for cannot be
    answered, so it is no target either.
    """
    if model.bidirectional:
        mask = getattr(model.tokenizer, "mask_token_id", None)
        masked = np.flatnonzero(cells.input_id == (-1 if mask is None else mask))
        return Targets(
            np.full(len(cells), -1),
            masked,
            "This model reads in both directions, so there is no next token: target_id and rank "
            "are those of its own answer at mask tokens, and cross_entropy is NaN.",
        )
    sayable = cells.target_id < model.d_vocab
    remark = (
        None
        if sayable.all()
        else f"{int((~sayable).sum())} of the next tokens have no row in the head "
        f"({model.d_vocab} rows), so this model cannot predict them: rank and cross_entropy are "
        "missing there."
    )
    return Targets(np.where(sayable, cells.target_id, -1), cells.last, remark)
