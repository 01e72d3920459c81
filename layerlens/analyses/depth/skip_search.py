"""Search the sublayers that can be left out together with the fewest tokens written otherwise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.set_trials import Chosen, Trial, TrialTexts, proposals, random_sets
from layerlens.analyses.depth.skip_sets import unit_name, unit_sets
from layerlens.analyses.sweeps.clean_pass import require_tokens, tolerance
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.depth.finercut_trials import Unit
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SETS = ("found", "best random", "evenly spread")
"""What is compared in the end: the winner of the search, of random sets, and the first set."""

_TRIAL = ("trial",)
_SET = ("set",)
_OF = "share of tokens that stay the likeliest"
VARIABLES = {
    "best": Variable(_TRIAL, "float64", "1", f"{_OF}, best set so far"),
    "best_random": Variable(_TRIAL, "float64", "1", f"{_OF}, best random set so far"),
    "tried": Variable(_TRIAL, "float64", "1", f"{_OF}, set tried"),
    "tried_random": Variable(_TRIAL, "float64", "1", f"{_OF}, random set tried"),
    "searched": Variable(_SET, "float64", "1", f"{_OF}, on the texts of the search"),
    **with_interval("held_out", Variable(_SET, "float64", "1", f"{_OF}, on held-out texts")),
    "held_out_loss_change": Variable(_SET, "float64", "nats", "change of the loss, held-out texts"),
    "left_out": Variable(("set", "sublayer"), "int32", "1", "whether the set leaves it out"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    ratio: float,
    trials: int,
    keep_ends: bool,
    held_out: float,
    seed: int,
    skip_first: bool | int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    runs = 2 * whole(trials, "trials")
    length = sum(tokens.lengths)
    states = (model.n_layers + 1) * length * model.d_model * model.dtype.itemsize
    return Work(1 + runs + len(SETS), (1 + runs) * length, states + 4 * length * model.d_vocab)


@analysis(
    name="skip_search",
    question="Which set of sublayers can be left out with the fewest tokens written otherwise?",
    source="Xia et al. (2024), SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference "
    "Acceleration, arXiv 2410.06916 (objective and start; the search is a local one)",
    cost="1 pass, and up to 1 for each set tried and each random one",
    view="panels",
    lead="The best share of tokens that stay the same so far; what the search is worth is how far "
    "it stands above as many random sets, and whether that holds on texts it has not seen.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    pooled=True,
)
def skip_search(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    ratio: float = 0.45,
    trials: int = 60,
    keep_ends: bool = True,
    held_out: float = 0.3,
    seed: int = 0,
    skip_first: bool | int = True,
) -> None:
    """Search a set of sublayers of one size whose absence changes the likeliest tokens least.

    The objective is that of ``ll.matchness``. The first set is evenly spread, a third of the
    trials are random sets, and all others change one or two members of the best set so far; of
    equal sets the one with the smaller change of the loss is better.

    Parameters
    ----------
    ratio
        Share of the sublayers that is left out; 0.45 as published.
    trials
        How many sets the search may try; as many random ones are tried beside it.
    keep_ends
        Leave out nothing of the first and the last block, as published.
    held_out
        Share of the texts (or of their groups) that the search does not see.
    seed
        Of the search, the random sets and the texts that are set apart.
    skip_first

    Notes
    -----
    The best of many sets looks better on the texts that chose it than it is: ``searched`` is
    that number, ``held_out`` the one on other texts, with an interval over them. The control is
    the best of as many random sets, chosen and measured in the same way. One text alone leaves
    none to hold out: NaN. Attribute ``sets``: the sublayers of each as JSON, as ``skip`` of
    ``ll.matchness`` takes them. Published are 1000 trials, some by a Gaussian process.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    SiteError
        The blocks have no sublayer that can be left out.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.skip_search(model, "cat dog owl cat", keep_ends=False, trials=4)
    >>> bool((found.data.best.diff("trial") >= 0).all())
    True
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio is {ratio}; expected a share above 0 and below 1.")
    if whole(trials, "trials") < 1:
        raise InputError(f"trials is {trials}; expected 1 or more.")
    _, pool = unit_sets(model, None, keep_ends)
    require_tokens(tokens, skip_first)
    every = range(len(tokens.ids))
    apart = job.split(seed, held_out) if len(every) > 1 else None
    count = min(len(pool) - 1, max(1, round(ratio * len(pool))))
    if not count:
        raise InputError(f"{model.name} has one sublayer to leave out: there is nothing to search.")
    search = _Search(job, model, pool, count, seed)
    search.declare(trials)
    how = (int(skip_first), job.tick)
    search.run(TrialTexts(model, tokens, apart.train if apart else every, *how), trials)
    search.finish(TrialTexts(model, tokens, apart.test, *how) if apart else None)


class _Search:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, pool: list[Unit], count: int, seed: int) -> None:
        self.job, self.model, self.pool, self.count, self.seed = job, model, pool, count, seed
        self.winners: dict[str, Chosen] = {}
        self.scores: dict[str, tuple[float, float]] = {}

    def declare(self, trials: int) -> None:
        """State the axes."""
        sizes = {"trial": trials, "set": len(SETS), "sublayer": len(self.pool)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "trial": (_TRIAL, np.arange(trials, dtype=np.int32)),
            "set": (_SET, np.array(SETS)),
            "sublayer": (("sublayer",), np.array([unit_name(unit) for unit in self.pool])),
            "sublayer_layer": (
                ("sublayer",),
                np.array([unit.layer for unit in self.pool], dtype=np.int32),
            ),
        }
        self.job.declare(sizes, coords)

    def run(self, texts: TrialTexts, trials: int) -> None:
        """Try the sets of the search, and as many random ones."""
        self.texts = texts
        same = texts.without([])
        self.empty = float(np.abs(same.matched - texts.tokens).max())
        pool, best = len(self.pool), lambda: self.winners["found"]
        searched = proposals(pool, self.count, trials, self.seed, best)
        done = 0
        for name, array, sets in (
            ("found", "", searched),
            ("best random", "_random", iter(random_sets(pool, self.count, trials, self.seed))),
        ):
            last = -1
            for last, chosen in enumerate(sets):
                self._try(name, array, last, chosen)
                done += 1
                self.job.progress(done, 2 * trials, name)
            rest = trials - 1 - last
            if rest:  # every set was tried
                nothing = np.full(rest, np.nan)
                where = {"trial": slice(last + 1, trials)}
                self.job.emit(where, {f"tried{array}": nothing, f"best{array}": nothing})

    def _try(self, name: str, array: str, number: int, chosen: Chosen) -> None:
        score = self.texts.score(self._without(self.texts, chosen))
        if not number and name == "found":
            self.winners["evenly spread"], self.scores["evenly spread"] = chosen, score
        if name not in self.scores or score > self.scores[name]:
            self.winners[name], self.scores[name] = chosen, score
        found = {f"tried{array}": score[0], f"best{array}": self.scores[name][0]}
        self.job.emit({"trial": number}, {key: np.array(value) for key, value in found.items()})

    def _without(self, texts: TrialTexts, chosen: Chosen) -> Trial:
        return texts.without([self.pool[place] for place in chosen])

    def finish(self, held: TrialTexts | None) -> None:
        """Measure the winners on texts that did not choose them."""
        named = {name: [unit_name(self.pool[i]) for i in self.winners[name]] for name in SETS}
        blocks, texts = self.texts.blocks, len(self.texts.tokens)
        for place, name in enumerate(SETS):
            gone = np.isin(np.arange(len(self.pool)), self.winners[name]).astype(np.int32)
            found: dict[str, Any] = {"left_out": gone, "searched": self.scores[name][0]}
            numbers = [np.nan] * 4
            if held is not None:
                trial = self._without(held, self.winners[name])
                mean, low, high = mean_interval(trial.matched[:, None], held.tokens)
                numbers = [mean[0], low[0], high[0], -held.score(trial)[1]]
            ends = ("held_out", "held_out_low", "held_out_high", "held_out_loss_change")
            found |= dict(zip(ends, numbers, strict=True))
            self.job.emit({"set": place}, {key: np.array(v) for key, v in found.items()})
        if held is not None:
            blocks, texts = blocks + held.blocks, texts + len(held.tokens)
        else:
            self.job.remark("One text leaves none to hold out: give several.")
        self.job.note(
            sets=json.dumps(named),
            passes=blocks / self.model.n_layers / texts,
            method="random sets, then neighbours of the best; runs begin at the first change",
        )
        what = "tokens that do not match themselves with nothing left out"
        self.job.check("nothing left out", self.empty, 0, what)
        chosen = [self.pool[place] for place in self.winners["found"]]
        again = self.texts.score(self.texts.without(chosen, naive=True))[1]
        off = abs(again - self.scores["found"][1])
        what = "loss without the found set against passes of the whole model with hooks"
        self.job.check("naive agreement", off, tolerance(self.model), what)
