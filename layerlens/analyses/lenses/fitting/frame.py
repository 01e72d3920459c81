"""What every call of ``ll.fit_lens`` begins and ends with, whatever kind it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, count_kept, rows_of, text_of
from layerlens.analyses.lenses.fitting.judge import VARIABLES
from layerlens.corpus.shard import batches
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

ROUNDING = 1e-3
"""Nats below zero by which a divergence may come."""


def sides(job: Job, texts: Tokens | Texts, asked: Asked) -> tuple[list[Row], list[Row]]:
    """The rows to fit on, and those that were set apart.

    Raises
    ------
    InputError
        A side has no token that counts.
    """
    rows = rows_of(asked.model, texts)
    split = job.split(asked.seed, asked.test)
    found = {
        "training": [row for row in rows if not split.is_test(text_of(row))],
        "the test": [row for row in rows if split.is_test(text_of(row))],
    }
    for name, side in found.items():
        if not count_kept(side, asked.skipped):
            raise InputError(
                f"No token is left for {name} when the first {asked.skipped} of each text do not "
                "count: give longer texts, or a smaller positions_skipped."
            )
    return found["training"], found["the test"]


def declare(job: Job, asked: Asked, shown: Sequence[str] = tuple(VARIABLES)) -> None:
    """Say which lenses are judged at which points.

    Parameters
    ----------
    shown
        Variables that are emitted.
    """
    points, lenses = asked.chosen, asked.lenses
    layers = np.array([point.layer for point in points], dtype=np.int32)
    job.declare(
        {"lens": len(lenses), "point": len(points)},
        {
            "lens": (("lens",), np.array(lenses)),
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), layers),
        },
        shown,
    )


def check_judged(job: Job, model: LensModel, row: Row, lowest: float) -> None:
    """Hold the judging to what it has to give.

    Parameters
    ----------
    row
        One that was set apart: its last state, which has no map, has to give the model's own
        answer.
    lowest
        The smallest divergence of a token, nats.
    """
    job.check("divergence not negative", -lowest, ROUNDING, "nats below zero of any token")
    last = Site("resid_post", model.n_layers - 1)
    states = []
    ((tokens, _),) = batches(model, [row], BATCH_TOKENS)
    logits = forward(
        model, tokens, [last], lambda _, value: states.append(value[:, -1]), logits="last"
    )
    assert logits is not None
    own = logits[:, -1].float()
    error = (model.unembed(states[0]) - own).abs().max() / own.abs().max()
    job.check(
        "last state", float(error), logit_tolerance(model.dtype),
        "its reading against the model's own logits, as a share of the largest",
    )  # fmt: skip
