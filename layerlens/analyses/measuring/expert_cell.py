"""What a cell of `expert_use` opens: the tokens that an expert serves, and where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.metrics.batch import split
from layerlens.run.forward import forward
from layerlens.run.routers import Choice, find_routers, watch_routers

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

ROWS = 20
"""Tokens that are listed."""

TEXTS = 4
"""Texts that are shown with the expert's tokens marked."""


def open_expert(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    least: int,
    batch_size: int | None,
    seed: int,
) -> Opened:
    """Run the texts once more and find the tokens that go to the expert of the cell."""
    layer, expert = int(place.need("layer")), int(place.need("expert"))
    router = find_routers(model)[layer]
    ids: list[int] = []
    shares: list[float] = []
    shown: list[list[tuple[str, float]]] = []
    for part, _ in split(tokens, batch_size):
        found: dict[int, Choice] = {}
        with watch_routers(model, {layer: router}, part, found.__setitem__):
            job.tick()
            forward(model, part, [], lambda site, value: None, logits=None)
        there = (found[layer].experts == expert).any(-1).reshape(part.ids.shape)
        for row, mask in enumerate(part.mask):
            marks = there[row][mask].double().tolist()
            ids += part.ids[row][mask].tolist()
            shares += marks
            strings = [s for s, keep in zip(part.strings[row], mask.tolist(), strict=True) if keep]
            shown.append(list(zip(strings, marks, strict=True)))
    return Opened(
        title=f"Expert {expert} of layer {layer}: {int(sum(shares))} of {len(ids)} tokens",
        code=place.call,
        tables=[Table(["token", "occurs", "goes there"], _rows(model, ids, shares, least))],
        texts=sorted(shown, key=lambda row: -sum(mark for _, mark in row))[:TEXTS],
    )


def _rows(
    model: LensModel, ids: list[int], shares: list[float], least: int
) -> list[list[str | int | float | None]]:
    """Each token with how often it occurs and which part of that goes to the expert."""
    known, place = np.unique(ids, return_inverse=True)
    counts = torch.zeros(len(known), 2, dtype=torch.float64)
    counts.index_add_(0, torch.from_numpy(place), torch.tensor([[1.0, s] for s in shares]).double())
    rows = [
        (int(token), int(occurs), goes / occurs)
        for token, (occurs, goes) in zip(known.tolist(), counts.tolist(), strict=True)
        if occurs >= least and goes
    ]
    rows.sort(key=lambda row: (-row[2], -row[1]))
    return [[model.token_string(token), occurs, part] for token, occurs, part in rows[:ROWS]]
