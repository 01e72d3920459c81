"""Which token each prediction of a lens is measured against: the next one, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from layerlens.analyses.texts.chosen_positions import Cells
    from layerlens.model.anatomy import Pool
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
    head = model.anatomy.head
    if head is not None and head.pool is not None:
        return _pooled_targets(head.pool, cells)
    if model.bidirectional and not model.answers_words:
        return Targets(
            np.full(len(cells), -1),
            np.arange(len(cells)),
            "This model answers at each position on what is there: target_id and rank are those of "
            "its own answer, and cross_entropy is NaN.",
        )
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


def _pooled_targets(pool: Pool, cells: Cells) -> Targets:
    """Of a head that answers once for all positions: its own answer, where it reads just one."""
    nothing = np.full(len(cells), -1)
    said = "target_id and rank are those of its own answer"
    if pool.position is None:
        return Targets(
            nothing, np.array([], dtype=int),
            "This model answers once for all positions, of which it reads several; the head is "
            "applied to each as if all held its state, and there is no target.",
        )  # fmt: skip
    places = np.flatnonzero(cells.column == 0) if pool.position == 0 else cells.last
    return Targets(
        nothing, places,
        f"This model answers once, at the {'first' if pool.position == 0 else 'last'} position; "
        f"at others the head is applied out of its training, and {said} there alone.",
    )  # fmt: skip
