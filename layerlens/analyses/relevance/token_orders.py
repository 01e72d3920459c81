"""Orders in which tokens are taken away: by a rule's relevance, and those to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.relevance.by_gradient import by_gradient
from layerlens.analyses.relevance.explained import Explained
from layerlens.analyses.relevance.integrated import Integrated
from layerlens.analyses.relevance.removed_tokens import RemovedTokens
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.base import Base

ORACLE = "model itself"
LAST, FIRST = "last token first", "first token first"
BESIDE = (ORACLE, LAST, FIRST)
"""Orders that no rule gives: by what each token does when it alone is taken away, and by place."""


def scores_by_rule(
    model: LensModel,
    base: Base,
    answer: int,
    rule: str,
    steps: int,
    memory_limit: int,
    tick: Callable[[], None],
) -> np.ndarray:
    """Relevance of each token's embedding, ``[position]``."""
    explained = Explained(model, answer)
    if rule == "integrated":
        whole = float(explained(base.final[None])[0].detach())
        work = Integrated(model, base.tokens, None, base.at, explained, steps, memory_limit, tick)
        return work.at(0, whole).relevance
    site = Site("resid_pre", 0)
    return by_gradient(model, base.tokens, base.at, [site], explained, rule).at[site]


def scores_beside(runs: RemovedTokens, length: int) -> dict[str, np.ndarray]:
    """Scores that no rule gives, ``[position]`` each."""
    whole = runs.without([()])[0]
    alone = np.full(length, -np.inf)
    alone[list(runs.positions)] = whole - np.array(runs.without([(p,) for p in runs.positions]))
    places = np.arange(length, dtype=float)
    return {ORACLE: alone, LAST: places, FIRST: -places}


def reversed_name(order: str) -> str:
    """What an order is called that begins at the other end."""
    return f"{order} reversed"


def order(scores: np.ndarray, positions: tuple[int, ...]) -> list[int]:
    """Positions by falling score; ties from the left."""
    return sorted(positions, key=lambda position: -scores[position])
