"""Whether recorded states are the model's own: the first text once more, in a pass of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.analyses.probing.examples import Where, examples_of, means
from layerlens.analyses.probing.states import Points
from layerlens.corpus.shard import batches
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel

SAME = 1e-3
"""How far a state in a batch may be from that of its text alone, as a share."""


def check_alone(
    job: Job,
    model: LensModel,
    rows: Iterable[Row],
    points: Sequence[Point],
    where: Where,
    states: Points,
) -> None:
    """Hold the states of the first text, as `recorded` kept them, to a pass of it by itself.

    Parameters
    ----------
    rows
        Of all texts, as they are read.
    where
        As they were recorded.
    states
        Of all examples at each point.
    """
    row = next(row for row in rows if examples_of(row, where))
    alone = _alone(model, row, points, where)
    error = max(
        float(np.abs(own[: len(one)] - one).max() / max(np.abs(one).max(), 1e-30))
        for own, one in zip(states, alone, strict=True)
    )
    job.check(
        "first text alone", error, SAME * (1 if model.dtype.itemsize > 2 else 30),
        "states of the first text in its batch against a pass of it by itself, as a share",
    )  # fmt: skip


def _alone(model: LensModel, row: Row, points: Sequence[Point], where: Where) -> list[np.ndarray]:
    """States of one text by a pass of its own."""
    ((tokens, _),) = batches(model, [row], BATCH_TOKENS)
    states: dict[Site, torch.Tensor] = {}

    def see(site: Site, value: torch.Tensor) -> None:
        states[site] = value.float().cpu()

    forward(model, tokens, [point.site for point in points], see, logits=None)
    own = examples_of(row, where)
    spans = [(0, start, stop) for one in own for start, stop in one]
    return [means(states[point.site], spans).reshape(len(own), -1) for point in points]
