"""What a cell of ``neuron_tokens`` opens: the tokens at both ends of one neuron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.neurons.neuron_directions import (
    TokenScores,
    neuron_rows,
    through_norms,
    token_rows,
)
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def open_neuron(
    job: Job,
    model: LensModel,
    place: Place,
    *,
    k: int,
    direction: str,
    norm: str,
    rank: str,
    **_: Any,
) -> Opened:
    """Decode one neuron once more, and name its tokens beside their scores."""
    layer, neuron = int(place.need("layer")), int(place.need("neuron"))
    rows = neuron_rows(model, layer, direction)
    if neuron >= len(rows):
        raise InputError(f"Layer {layer} has {len(rows)} neurons: there is no neuron {neuron}.")
    if norm == "gamma":
        rows = through_norms(model, layer, direction, rows)
    decoder = TokenScores(token_rows(model), rank, rows)
    tokens, scores = decoder.ends(rows[neuron : neuron + 1], k, job.tick)
    listed = [
        [
            model.token_string(int(tokens[0, 0, i])),
            float(scores[0, 0, i]),
            model.token_string(int(tokens[0, 1, i])),
            float(scores[0, 1, i]),
        ]
        for i in range(k)
    ]
    options = f"layers=[{layer}], k={k}, direction={direction!r}, norm={norm!r}, rank={rank!r}"
    return Opened(
        title=f"Neuron {neuron} of layer {layer}: its tokens",
        code=f"ll.neuron_tokens(model, {options}).data.token.sel(neuron={neuron})",
        tables=[Table(["raised", "score", "lowered", "score"], listed)],
    )
