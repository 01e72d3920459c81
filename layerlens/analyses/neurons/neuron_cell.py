"""What a cell of ``neuron_tokens`` opens: the tokens of one neuron, or the neurons of one token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.cells import FOUND, Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.neurons.found_neurons import find_neurons
from layerlens.analyses.neurons.neuron_directions import (
    DIRECTIONS,
    TokenScores,
    neuron_rows,
    through_norms,
    token_rows,
)
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

VERBS = {"output": "What it writes", "input": "What it reads", "gate": "What opens it"}


def open_neuron(job: Job, model: LensModel, place: Place, **options: Any) -> Opened:
    """Decode one neuron in all of its directions, or find the neurons that have a token most."""
    if FOUND in place.labels:
        return find_neurons(job, model, place.labels[FOUND], **options)
    layer, neuron = int(place.need("layer")), int(place.need("neuron"))
    return _tokens(job, model, layer, neuron, **options)


def _tokens(
    job: Job,
    model: LensModel,
    layer: int,
    neuron: int,
    *,
    k: int,
    direction: str,
    norm: str,
    rank: str,
    **_: Any,
) -> Opened:
    weight = token_rows(model)
    tables = []
    for name in sorted(DIRECTIONS, key=lambda name: name != direction):
        try:
            rows = neuron_rows(model, layer, name)
        except InputError:
            if name == direction:
                raise
            continue  # a layer without a gate, say
        if neuron >= len(rows):
            raise InputError(f"Layer {layer} has {len(rows)} neurons: there is no neuron {neuron}.")
        if norm == "gamma":
            rows = through_norms(model, layer, name, rows)
        decoder = TokenScores(weight, rank, rows)
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
        tables.append(Table(["largest", "score", "smallest", "score"], listed, VERBS[name]))
    options = f"layers=[{layer}], k={k}, direction={direction!r}, norm={norm!r}, rank={rank!r}"
    return Opened(
        title=f"Neuron {neuron} of layer {layer}: its tokens",
        code=f"ll.neuron_tokens(model, {options}).data.token.sel(neuron={neuron})",
        tables=tables,
    )
