"""What a cell of a token attribution opens: all tokens of the text, at its layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.attention.through_layers import RESIDUAL, Step, ThroughLayers
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.texts.text_pair import row_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_attribution(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    method: str,
    target: Any,
    residual: float | None,
) -> Opened:
    """Follow the text once more, and list its tokens at the layer of the cell."""
    layer = int(place.need("layer"))
    text = row_of(tokens, 0)
    aim = model.positions(text, target)[-1]
    steps: list[Step] = []
    through = ThroughLayers(
        model, method, RESIDUAL if residual is None else float(residual), aim, steps.append
    )
    through.run(text, job.tick)
    step, strings = steps[layer], text.strings[0]
    order = np.argsort(-step.attribution, kind="stable").tolist()
    rows = [
        [
            position,
            strings[position],
            float(step.attribution[position]),
            float(step.attribution_chance[position]),
            float(step.layer_attribution[position]),
        ]
        for position in order
    ]
    marks = step.attribution / max(float(step.attribution.max()), 1e-12)
    return Opened(
        title=f"Where {strings[aim]!r} (position {aim}) comes from, after layer {layer}",
        code=place.call,
        tables=[Table(["position", "token", "share", "even attention", "this layer alone"], rows)],
        texts=[list(zip(strings, marks.tolist(), strict=True))],
    )
