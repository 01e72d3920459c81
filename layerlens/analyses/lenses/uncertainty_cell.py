"""What a token of ``token_uncertainty`` opens: the coloured text, and what else was likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.lenses.uncertainty import CLAIM, MEASURES

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MEASURE_OF = {
    "entropy": "entropy",
    "margin": "margin",
    "layer_agreement": "layers",
    "claim_probability": "claim",
}
"""The doubt that an array is coloured by; the others are by that about the token."""


def open_uncertainty(job: Job, model: LensModel, tokens: Tokens, place: Place, **_: Any) -> Opened:
    """Colour the text by the doubt of the cell, and list the likeliest tokens in its place.

    All of it is in the answer: nothing is run.
    """
    job.tick()
    at = int(place.need("position"))
    answer = place.answer
    if answer["token_id"].ndim == 2:
        row = int(place.labels.get("text", 0))
        answer = {name: each[row] for name, each in answer.items() if each.ndim > 1}
    measures = [*MEASURES, CLAIM]
    measure = str(place.labels.get("measure", MEASURE_OF.get(place.array, "token")))
    doubt = np.nan_to_num(answer["doubt"][measures.index(measure)])
    ids = [int(index) for index in answer["token_id"] if index >= 0]
    strings = model.vocabulary.split(ids)[0]
    rows = [
        [model.vocabulary.string(int(index)), float(probability)]
        for index, probability in zip(
            answer["top_id"][at], answer["top_probability"][at], strict=True
        )
        if index >= 0
    ]
    return Opened(
        title=f"{strings[at]!r} at position {at}, and the text coloured by doubt ({measure})",
        code=place.call,
        tables=[Table(["in its place", "probability"], rows)],
        texts=[list(zip(strings, doubt.tolist(), strict=False))],
    )
