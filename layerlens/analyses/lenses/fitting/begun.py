"""A lens that was begun by an earlier call: what it has is taken over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.learning import data_of
from layerlens.analyses.contract.options import plain
from layerlens.analyses.lenses.fitting.judge import unflat
from layerlens.errors import InputError
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.corpus.texts import Texts
    from layerlens.model.text import Tokens

SAME = (
    "steps", "rank", "positions_skipped", "ridge", "test", "test_tokens", "reduction", "tracked",
    "controls", "seed",
)  # fmt: skip
"""Options that a lens has to be begun and ended with."""


def begun_points(job: Job, texts: Tokens | Texts, asked: Asked) -> set[str]:
    """Hand over what ``resume`` has, and say for which points it is.

    Raises
    ------
    InputError
        It is of another kind or model, or was begun with other texts or options.
    """
    begun = begun_lens(texts, asked)
    if begun is None:
        return set()
    known = {name.rpartition(".")[0] for name in begun}
    found = [point.label for point in asked.chosen if point.label in known]
    for label in found:
        _hand_over(job, begun, asked, label)
    return set(found)


def begun_lens(texts: Tokens | Texts, asked: Asked) -> Fitted | None:
    """What ``resume`` is, where it is given.

    Raises
    ------
    InputError
        It is of another kind or model, or was begun with other texts or options.
    """
    if asked.resume is None:
        return None
    given = asked.resume
    begun = open_saved(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(begun, Fitted):
        raise InputError("resume is no lens: give what an earlier ll.fit_lens returned.")
    begun.require(asked.model, asked.learns)
    if begun.data != data_of(asked.model, {"text": texts}):
        raise InputError("The lens to resume was begun with other texts: give the same ones.")
    for name in SAME:
        if begun.options.get(name) != plain(getattr(asked, name)):
            raise InputError(
                f"The lens to resume was begun with {name}={begun.options.get(name)!r}: give the "
                "same, or begin anew."
            )
    return begun


def _hand_over(job: Job, begun: Fitted, asked: Asked, label: str) -> None:
    arrays = {name: begun[name] for name in begun if name.rpartition(".")[0] == label}
    scores = {
        side: {name: value for name, value in flat.items() if name.endswith(f"/{label}")}
        for side, flat in begun.scores.items()
    }
    job.learned(arrays, scores)
    index = [point.label for point in asked.chosen].index(label)
    means = unflat(scores.get("test", {}), asked.lenses, asked.kind, label)
    job.emit({"point": index}, {name: array.astype(np.float32) for name, array in means.items()})
