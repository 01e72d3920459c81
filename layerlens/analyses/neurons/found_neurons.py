"""The neurons that have one token most, in what they write and in what they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Table
from layerlens.analyses.contract.contract import Job
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

VERBS = {"output": "write", "input": "read", "gate": "are opened by"}


def find_neurons(
    job: Job,
    model: LensModel,
    token: int,
    *,
    layers: Any,
    k: int,
    direction: str,
    norm: str,
    rank: str,
    seed: int,
    **_: Any,
) -> Opened:
    """Score one token in every neuron, beside as many random directions as there are neurons."""
    if not 0 <= token < model.d_vocab:
        raise InputError(f"There is no token {token}: ids go from 0 to {model.d_vocab - 1}.")
    weight = token_rows(model)[[token]]
    word = model.token_string(token)
    tables = []
    for name in sorted(DIRECTIONS, key=lambda name: name != direction):
        scored = _scored(job, model, weight, model.layers(layers), name, norm, rank, seed)
        if scored is not None:
            tables.append(_table(*scored, k, VERBS[name], word))
    options = f"k={k}, direction={direction!r}, norm={norm!r}, rank={rank!r}"
    some = "" if layers is None else f"layers={layers!r}, "
    return Opened(
        title=f"Neurons by the token “{word}”",
        code=f"ll.neuron_tokens(model, {token}, {some}{options}).data.found_neuron",
        tables=tables,
    )


def _scored(
    job: Job,
    model: LensModel,
    weight: Tensor,
    layers: Sequence[int],
    direction: str,
    norm: str,
    rank: str,
    seed: int,
) -> tuple[Tensor, list[tuple[int, int]], float] | None:
    """Scores of the token, the places of the neurons, and the best score of random directions."""
    generator = torch.Generator().manual_seed(seed)
    scores: list[Tensor] = []
    places: list[tuple[int, int]] = []
    chance = -torch.inf
    for layer in layers:
        job.tick()
        try:
            rows = neuron_rows(model, layer, direction)
        except InputError:  # no such weight in this layer
            continue
        drawn = torch.randn(rows.shape, generator=generator).to(rows)
        drawn *= rows.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        if norm == "gamma":
            rows, drawn = (through_norms(model, layer, direction, x) for x in (rows, drawn))
        decoder = TokenScores(weight, rank, rows)
        scores.append(decoder.of(rows, [0])[:, 0].cpu())
        places += [(layer, neuron) for neuron in range(len(rows))]
        chance = max(chance, float(decoder.of(drawn, [0]).max()))
    return (torch.cat(scores), places, chance) if scores else None


def _table(
    scores: Tensor, places: Sequence[tuple[int, int]], chance: float, k: int, verb: str, word: str
) -> Table:
    best = scores.topk(min(k, len(scores)))
    found = [places[int(i)] for i in best.indices]
    rows = [[f"{layer}.{neuron}", float(score)]
            for (layer, neuron), score in zip(found, best.values, strict=True)]  # fmt: skip
    opens = [("prominence", {"layer": layer, "neuron": neuron}) for layer, neuron in found]
    rows.append(["random, best", chance])
    return Table(["neuron", "score"], rows, f"{verb} “{word}” most", opens)
