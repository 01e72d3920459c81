"""What cells of ``head_roles`` and ``head_clusters`` open: where a head looks, and its like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.attention.head_looks import keys_of_roles
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.measuring.head_scores import repeated_tokens, usual_length
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

QUERIES = 10
"""Tokens of the second half whose attention is listed."""


def heads_seen(model: LensModel) -> list[tuple[int, int]]:
    """Layer and number of each head whose pattern can be seen."""
    blocks = enumerate(model.anatomy.blocks)
    return [(i, h) for i, b in blocks if b.attention is not None for h in range(b.n_heads)]


def open_looks(
    job: Job,
    model: LensModel,
    place: Place,
    *,
    length: int | None,
    sequences: int,
    threshold: float,
    seed: int,
) -> Opened:
    """Feed the first sequence once more, and say for some tokens where the head looks most."""
    layer, head = int(place.need("layer")), int(place.need("head"))
    length = usual_length(model) if length is None else length
    tokens = job.tokens(repeated_tokens(model, length, sequences, seed)[:1])
    held: list[Tensor] = []
    job.tick()
    site = Site("pattern", layer)
    forward(model, tokens, [site], lambda _, value: held.append(value[0, head]), logits=None)
    pattern: np.ndarray = held[0].float().cpu().numpy()
    roles = keys_of_roles(tokens.ids[0])
    strings, fed = tokens.strings[0], len(pattern)
    rows = []
    for query in np.linspace(fed - length, fed - 1, min(QUERIES, length)).astype(int).tolist():
        key = int(pattern[query].argmax())
        named = [role for role, keys in roles.items() if keys[query, key]]
        rows.append(
            [query, strings[query], f"{strings[key]} ({key})", float(pattern[query, key]),
             ", ".join(named).replace("_", " ") or "none of these"]
        )  # fmt: skip
    middle = rows[len(rows) // 2][0]
    return Opened(
        title=f"Where head {head} of layer {layer} looks from the second half of a repeat; marked: "
        f"from {strings[middle]!r} (position {middle})",
        code=f"ll.record(model, {tokens.ids[0].tolist()}, 'pattern.{layer}.{head}')",
        tables=[Table(["position", "token", "looks most at", "weight", "which is"], rows)],
        texts=[list(zip(strings, pattern[middle].tolist(), strict=True))],
    )


def open_neighbours(job: Job, model: LensModel, tokens: Tokens, place: Place, **_: Any) -> Opened:
    """List the heads that look most like the one of the cell, from the distances of the answer."""
    job.tick()
    distance, cluster = place.answer["distance"], place.answer["cluster"]
    seen = heads_seen(model)
    names = [f"L{layer}H{head}" for layer, head in seen]
    if "layer_head" in place.labels:
        own = names.index(str(place.labels["layer_head"]))
    else:
        layer, head = int(place.need("layer")), int(place.need("head"))
        if (layer, head) not in seen:
            raise InputError(f"Layer {layer} has no head {head} whose attention can be seen.")
        own = names.index(f"L{layer}H{head}")
    order = [i for i in np.argsort(distance[own], kind="stable").tolist() if i != own]
    group = [int(cluster[at]) for at in seen]
    rows = [
        [names[i], group[i], float(distance[own, i]), "yes" if group[i] == group[own] else "no"]
        for i in order[:QUERIES]
    ]
    return Opened(
        title=f"The heads that look most like {names[own]}, which is in group {group[own]}",
        code=place.call,
        tables=[Table(["head", "group", "divergence", "same group"], rows)],
    )
