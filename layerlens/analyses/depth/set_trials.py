"""Sets of sublayers tried on some texts, and a search among the sets of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from layerlens.analyses.answers.prediction_change import Outputs
from layerlens.analyses.depth.skip_sets import mismatch, spread_places, without_units
from layerlens.analyses.sweeps.clean_pass import Pass
from layerlens.analyses.texts.text_pair import row_of
from layerlens.metrics.batch import Batch

if TYPE_CHECKING:
    from layerlens.analyses.depth.finercut_trials import Unit
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Chosen = tuple[int, ...]
"""Places in the pool of what is left out, ascending."""


class Trial(NamedTuple):
    """What one set gave, a number for each text.

    Parameters
    ----------
    matched
        Tokens whose likeliest successor is the same.
    loss
        Sum of the changes of the loss over the tokens that have a next one.
    """

    matched: np.ndarray
    loss: np.ndarray


class TrialTexts:
    """Some of the texts, whose clean passes are kept while sets are tried on them.

    Attributes
    ----------
    tokens, losses
        ``[text]``, how many tokens count, and how many have a next one.
    blocks
        How many blocks were run.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        rows: Sequence[int],
        skip_first: int,
        tick: Callable[[], None],
    ) -> None:
        self._model, self.blocks = model, 0
        self._kept: list[tuple[Pass, Outputs]] = []
        for row in rows:
            batch = Batch(row_of(tokens, row), [row], skip_first)
            if len(batch.kept):
                one = Pass(model, batch, tick)
                self._kept.append((one, Outputs(model, batch, one.taken(one.states[-1]))))
                self.blocks += model.n_layers
        self.tokens = np.array([len(one.batch.kept) for one, _ in self._kept], dtype=float)
        known = [np.isfinite(outputs.loss.numpy()) for _, outputs in self._kept]
        self.losses = np.array([each.sum() for each in known], dtype=float)

    def without(self, units: Sequence[Unit], *, naive: bool = False) -> Trial:
        """Leave sublayers out of each text; ``naive`` by whole passes with hooks."""
        matched, lost = [], []
        for one, outputs in self._kept:
            if naive:
                final, blocks = one.without(sublayers=units), self._model.n_layers
            else:
                final, blocks = without_units(self._model, one, units)
            self.blocks += blocks
            other, loss = outputs.compare(one.taken(final), mismatch)
            matched.append(float((1 - other).sum()))
            lost.append(float((loss - outputs.loss).nansum()))
        return Trial(np.array(matched), np.array(lost))

    def score(self, trial: Trial) -> tuple[float, float]:
        """Matchness of all tokens together, and minus the change of the loss: larger is better."""
        each = max(1.0, float(self.losses.sum()))
        return float(trial.matched.sum() / self.tokens.sum()), -float(trial.loss.sum() / each)


def proposals(
    pool: int, count: int, trials: int, seed: int, best: Callable[[], Chosen]
) -> Iterator[Chosen]:
    """Sets of one size to try: an even one, then random ones, then neighbours of the best so far.

    Parameters
    ----------
    pool, count
        How many sublayers there are, and how many are left out.
    trials
        How many sets are wanted; a third of them is drawn at random. Fewer, where there are no
        more.
    seed
        Of what is drawn.
    best
        The best set so far.
    """
    random = np.random.default_rng((seed, 2))
    seen = {tuple(spread_places(pool, count))}
    yield next(iter(seen))
    for number in range(1, trials):
        for _ in range(200):
            chosen = (
                _drawn(pool, count, random)
                if number <= trials // 3
                else _neighbour(best(), pool, random)
            )
            if chosen not in seen:
                break
        else:
            return
        seen.add(chosen)
        yield chosen


def random_sets(pool: int, count: int, trials: int, seed: int) -> list[Chosen]:
    """As many different sets, each drawn at random."""
    random, found = np.random.default_rng((seed, 3)), dict[Chosen, None]()
    for _ in range(20 * trials):
        if len(found) == trials:
            break
        found[_drawn(pool, count, random)] = None
    return list(found)


def _drawn(pool: int, count: int, random: np.random.Generator) -> Chosen:
    return tuple(sorted(random.choice(pool, count, replace=False).tolist()))


def _neighbour(chosen: Chosen, pool: int, random: np.random.Generator) -> Chosen:
    """One or two of a set put back, and as many others left out."""
    outside = sorted(set(range(pool)) - set(chosen))
    swaps = min(int(random.integers(1, 3)), len(chosen), len(outside))
    gone = random.choice(chosen, swaps, replace=False).tolist()
    new = random.choice(outside, swaps, replace=False).tolist()
    return tuple(sorted((set(chosen) - set(gone)) | set(new)))
