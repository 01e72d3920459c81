"""Whether a model needs the tokens that a rule names: they are taken away in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.answers.answer_metric import Metric, MetricFunction, make_metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import holding
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.relevance.removed_tokens import RemovedTokens
from layerlens.analyses.relevance.rules import FLOWS, RULES
from layerlens.analyses.relevance.token_orders import (
    BESIDE,
    order,
    reversed_name,
    scores_beside,
    scores_by_rule,
)
from layerlens.analyses.sweeps.clean_pass import TokenMeans, tolerance
from layerlens.analyses.sweeps.straight_way import INSIDE
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.run.base import record_base
from layerlens.run.flow import require_flow
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of the tokens over which comprehensiveness and sufficiency are means (ERASER)."""
USUAL = ("attnlrp", "cp", "input_x_gradient", "gradient")
RANDOM = "random orders"
_CURVE, _ORDER = ("order", "share"), ("order",)
_BAND = "random orders: {}, {} end of 95 %"
_CURVES = {
    "deletion": "fall of the answer without the first tokens of the order",
    "sufficiency_curve": "fall of the answer with the first tokens of the order alone",
}
_MEANS = {
    "comprehensiveness": "mean fall without the first tokens of the order",
    "sufficiency": "mean fall with the first tokens of the order alone",
}
VARIABLES = {
    **{
        name: variable
        for curve, words in _CURVES.items()
        for name, variable in with_interval(
            curve, Variable(_CURVE, "float64", "1", words, signed=True)
        ).items()
    },
    **{
        name: variable
        for mean, words in _MEANS.items()
        for name, variable in with_interval(
            mean, Variable(_ORDER, "float64", "1", words, signed=True)
        ).items()
    },
    **{
        f"{mean}_chance_{end}": Variable((), "float64", "1", _BAND.format(mean, side), signed=True)
        for mean in _MEANS
        for end, side in (("low", "lower"), ("high", "upper"))
    },
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    rules: Sequence[str],
    draws: int,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows and bytes of one call, as if no two sets of tokens were the same."""
    longest = max(tokens.lengths)
    orders = len(rules) * 2 + len(BESIDE) + whole(draws, "draws")
    runs = 2 * len(SHARES) * orders + longest
    held = longest * model.d_model * model.dtype.itemsize * model.n_layers * INSIDE
    return Work(
        2 + 3 * len(rules) + runs, runs, max(held, min(memory_limit, runs * held // INSIDE))
    )


@analysis(
    name="faithfulness",
    question="Does the model need the tokens that a rule of relevance names?",
    source="DeYoung et al. (2020), ERASER: A Benchmark to Evaluate Rationalized NLP Models, arXiv "
    "1911.03429 (comprehensiveness, sufficiency); Samek et al. (2017), Evaluating the "
    "Visualization of What a Deep Neural Network Has Learned, arXiv 1509.06321 (deletion)",
    cost="3 passes a text and rule, and one for each set of tokens that is taken away, many at "
    "once",
    view="grid",
    lead="How far the answer falls when the tokens that an order names first are taken away: the "
    "higher the better; and when these alone are left: the lower the better. Random orders, orders "
    "by place and each rule reversed stand beside.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head",),
    gradients=True,
    effects={"steps": holding("rules", "integrated")},
)
def faithfulness(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    rules: Sequence[str] = USUAL,
    scores: Mapping[str, Sequence[Any]] | None = None,
    answer: str | int | Sequence[str | int] | None = None,
    metric: str | MetricFunction = "probability",
    draws: int = 20,
    steps: int = 256,
    seed: int = 0,
    verify: int = 1,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Take tokens away in the order in which rules of relevance name them, and see.

    Parameters
    ----------
    rules
        Of `layerlens.relevance`, each asked for the embedding.
    scores
        Further orders by name: a number for each token of the text, larger for what comes first
        (of several texts a list of such). From another analysis, or by hand.
    answer
    metric
    draws
        Random orders.
    steps
        Derivatives that ``"integrated"`` takes at most.
    seed
        Of the random orders.
    verify
        Sets of tokens of the first text that are run once more, each by itself.
    memory_limit

    Notes
    -----
    ``deletion`` at a share is the metric of the text less that without so many of its tokens (one
    at least), ``sufficiency_curve`` less that with these alone; ``comprehensiveness`` and
    ``sufficiency`` are their means over the shares 1, 5, 10, 20 and 50 %. Intervals are over
    texts. A token that is taken away gets the mean embedding of the text's tokens, and keeps its
    position; the first token stays, and so does the one at which the answer is read. The order
    ``model itself`` is by what the model does without each: what relevance stands for. An order
    that does no better than the random band, or than an order by place, says nothing of these
    texts.

    Raises
    ------
    InputError
        An option does not fit, or a text has fewer than three tokens.
    ModelError
        A rule is not known for a part of the model.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.faithfulness(model, "cat dog owl cat", rules=["cp"], draws=5).data
    >>> found.order.values.tolist()
    ['cp', 'cp reversed', 'model itself', 'last token first', 'first token first', 'random orders']
    """
    given = dict(scores or {})
    _check_options(model, tokens, rules, given, draws)
    texts = len(tokens.ids)
    answers = one_each(answer, texts, "answer")
    judged = [name for own in (*rules, *given) for name in (own, reversed_name(own))]
    orders = [*judged, *BESIDE, *([RANDOM] if draws else [])]
    job.declare(
        {"order": len(orders), "share": len(SHARES)},
        {
            "order": (_ORDER, np.array(orders)),
            "share": (("share",), np.array(SHARES)),
        },
        only=[name for name in VARIABLES if draws or "_chance_" not in name],
    )
    run = _Faithful(job, model, orders, draws)
    for row in range(texts):
        text = row_of(tokens, row)
        with torch.no_grad():
            base = record_base(model, text)
            how = make_metric(model, metric, final=base.final, answer=answers[row])
        own = {
            rule: scores_by_rule(model, base, how.answer, rule, steps, memory_limit, job.tick)
            for rule in rules
        }
        own |= {name: _given(value, row, tokens, name) for name, value in given.items()}
        with torch.no_grad():
            runs = RemovedTokens(model, base.tokens, base.at, how, memory_limit, job.tick)
            run.text(row, runs, own, (seed, verify if row == 0 else 0))
        run.words.add(how.words)
        run.passes += 1 + 3 * len(rules) + runs.rows
        job.progress(row + 1, texts, "texts")
    run.finish(how)


def _check_options(
    model: LensModel, tokens: Tokens, rules: Sequence[str], given: Mapping[str, Any], draws: int
) -> None:
    if isinstance(rules, str):
        raise InputError(f"rules is {rules!r}; expected a list of rules.")
    for rule in rules:
        if rule not in RULES:
            raise nearest(str(rule), list(RULES), "Rule")
    if set(rules) & FLOWS.keys():
        require_flow(model)
    if twice := [name for name in given if name in (*RULES, *BESIDE, RANDOM)]:
        raise InputError(
            f"scores names {twice[0]!r}, which is an order already: name it otherwise."
        )
    if not rules and not given:
        raise InputError("There is no order to try: give rules, or scores of your own.")
    if whole(draws, "draws") < 0:
        raise InputError(f"draws is {draws}; expected 0 or more.")
    if min(tokens.lengths) < 3:
        raise InputError(
            f"The shortest text has {min(tokens.lengths)} tokens; expected 3 or more, of which the "
            "first and the one that is answered at stay."
        )


def _given(value: Any, row: int, tokens: Tokens, name: str) -> np.ndarray:
    """A person's own scores of one text."""
    own = np.asarray(value if tokens.single else value[row], dtype=float)
    if own.shape != (tokens.lengths[row],) or not np.isfinite(own).all():
        raise InputError(
            f"scores[{name!r}] of text {row} has shape {own.shape}; expected {tokens.lengths[row]} "
            "numbers, one for each token."
        )
    return own


class _Faithful:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, orders: list[str], draws: int) -> None:
        self.job, self.model, self.orders, self.draws = job, model, orders, draws
        self.curves = {name: TokenMeans(len(orders), len(SHARES)) for name in _CURVES}
        self.means = {name: TokenMeans(len(orders)) for name in _MEANS}
        self.random = {name: np.zeros(draws) for name in _MEANS}
        self.texts = 0
        self.words: set[str] = set()
        self.off = 0.0
        self.passes = 0.0

    def text(
        self, row: int, runs: RemovedTokens, own: Mapping[str, np.ndarray], how: tuple[int, int]
    ) -> None:
        """Every order of one text."""
        seed, verify = how
        length = runs.length
        scores: dict[str, np.ndarray] = {}
        for name, values in own.items():
            scores |= {name: values, reversed_name(name): -values}
        scores |= scores_beside(runs, length)
        rng = np.random.default_rng((seed, row))
        drawn = [rng.random(length) for _ in range(self.draws)]
        found = [self._curves(runs, values) for values in scores.values()]
        random = [self._curves(runs, values) for values in drawn]
        if random:
            found.append(np.mean(random, axis=0))
        for place, curves in enumerate(found):
            for which, (curve, mean) in enumerate(zip(_CURVES, _MEANS, strict=True)):
                for share, value in enumerate(curves[which]):
                    self.curves[curve].add_number((place, share), float(value), row)
                self.means[mean].add_number((place,), float(curves[which].mean()), row)
        for which, mean in enumerate(_MEANS):
            self.random[mean] += np.array([curves[which].mean() for curves in random])
        self.texts += 1
        self._verify(runs, next(iter(scores.values())), verify)
        self._show()

    def _curves(self, runs: RemovedTokens, scores: np.ndarray) -> np.ndarray:
        """Falls without the first tokens of an order and with these alone, ``[2, share]``."""
        ranked = order(scores, runs.positions)
        counts = [max(1, round(share * len(ranked))) for share in SHARES]
        sets = [ranked[:count] for count in counts] + [ranked[count:] for count in counts]
        plain, *values = runs.without([(), *sets])
        return (plain - np.array(values)).reshape(2, len(SHARES))

    def _verify(self, runs: RemovedTokens, scores: np.ndarray, verify: int) -> None:
        """Some sets once more, by themselves."""
        ranked = order(scores, runs.positions)
        for count in range(1, min(verify, len(ranked)) + 1):
            together, alone = runs.without([ranked[:count]])[0], runs.alone(ranked[:count])
            self.off = max(self.off, abs(together - alone) / max(1.0, abs(alone)))

    def _show(self) -> None:
        for name, means in (*self.curves.items(), *self.means.items()):
            self.job.emit({}, {name: means.mean()})

    def finish(self, how: Metric) -> None:
        """Hand over intervals and the band, and say what was compared."""
        for name, means in (*self.curves.items(), *self.means.items()):
            low, high = means.interval()
            self.job.emit({}, {f"{name}_low": low, f"{name}_high": high})
        for name, sums in self.random.items():
            if self.draws:
                low, high = np.quantile(sums / self.texts, [0.025, 0.975])
                ends = {f"{name}_chance_low": low, f"{name}_chance_high": high}
                self.job.emit({}, {end: np.array(value) for end, value in ends.items()})
        own = len(self.words) == 1
        words = how.words if own else f"{how.long_name} of each text's own answer"
        what = "texts with tokens taken away, run together and each by itself, relative"
        self.job.check("naive agreement", self.off, tolerance(self.model), what)
        self.job.note(
            passes=self.passes / self.texts,
            method="mean embedding of the text in the place of a token; the first stays",
            metric_words=words,
        )
