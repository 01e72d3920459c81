"""What a cell of ``steering`` opens: the next token steered, or what tells the pairs apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.steering.directions import held_out
from layerlens.analyses.steering.steering_text import NEUTRAL, Steering
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import record_base

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_steered(
    job: Job,
    model: LensModel,
    positive: Tokens,
    negative: Tokens,
    place: Place,
    *,
    site: str,
    position: Any,
    text: Any,
    steer_at: Any,
    front: bool,
    relative: bool,
    neutral: Any,
    **_: Any,
) -> Opened:
    """Find the direction of the layer again; with a coefficient, run the text with so much of it.

    A cell of ``neutral_kl`` is about the neutral text.
    """
    layer = int(place.need("layer"))
    work = Steering(job, model, [Site(site, layer)])
    work.find(positive, negative, [], position=position, relative=relative, front=front)
    if "coefficient" not in place.labels:
        return _pairs(work, layer, place, positive, negative)
    aside = place.array == "neutral_kl"
    wanted = (NEUTRAL if neutral is None else neutral) if aside else text
    tokens = row_of(job.tokens(wanted), 0)
    base = record_base(model, tokens)
    job.tick()
    dose = float(place.labels["coefficient"])
    where = model.positions(tokens, None if aside else steer_at)
    conditions = {
        "as it is": chances(model, base.final),
        "steered": chances_with(model, base, [work.change(0, dose, base.length, where)]),
    }
    return Opened(
        title=f"The next token of the {'neutral ' if aside else ''}text with {dose:g} of the "
        f"direction of layer {layer}",
        code=place.call,
        tables=[next_token_table(model, conditions)],
    )


def _pairs(work: Steering, layer: int, place: Place, positive: Tokens, negative: Tokens) -> Opened:
    """Where the prompts of each pair lie along the direction of all other pairs."""
    high, low = held_out(*(side[0] for side in work.sides))
    if not len(high):
        high = low = np.full(1, np.nan)
    rows = [
        ["".join(positive.strings[row]), float(up), "".join(negative.strings[row]), float(down)]
        for row, (up, down) in enumerate(zip(high, low, strict=True))
    ]
    return Opened(
        title=f"Each prompt along the direction of all other pairs, layer {layer}",
        code=place.call,
        tables=[Table(["positive", "lies at", "negative", "lies at"], rows)],
    )
