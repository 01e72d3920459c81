"""By depth, how well scores of states tell texts of a known kind from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import holding
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.information.blood import Stretch, scores_by_depth
from layerlens.analyses.information.ood_scores import (
    Gaussian,
    answered_energies,
    energies,
    neighbour_distance,
)
from layerlens.analyses.information.separation import between_halves, separation
from layerlens.analyses.information.text_states import pooled, require_pool
from layerlens.analyses.sweeps.clean_pass import passes, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.abilities import ABILITIES
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

BLOOD = ("blood", "blood_mean")
SCORES = ("mahalanobis", "knn", "energy", *BLOOD)
USUAL = SCORES[:-1]
DECIMALS = 4
"""Of energies in nats: fewer than float32 keeps apart, so that equal states are ties."""
_DIMS = ("point", "score")
_MEASURES = {
    "auroc": Variable(
        _DIMS, "float64", "1", "AUROC of outside texts against inside ones",
        formula="P(score of an outside text > score of an inside text), ties counting half",
    ),
    "aupr_out": Variable(
        _DIMS, "float64", "1", "AUPR of outside texts against inside ones",
        formula="sum over thresholds of (recall - recall before) * precision",
    ),
    "aupr_in": Variable(
        _DIMS, "float64", "1", "AUPR of inside texts, by minus the score",
        formula="sum over thresholds of (recall - recall before) * precision",
    ),
    "fpr95": Variable(
        _DIMS, "float64", "1", "outside texts kept where 95 % of inside ones are (FPR95)",
    ),
}  # fmt: skip
VARIABLES = {
    name: variable
    for measure, about in _MEASURES.items()
    for name, variable in with_interval(measure, about).items()
}
CHANCE = "chance (halves of inside)"
"""The control, which stands among the scores."""


def count_work(
    model: LensModel,
    inside: Tokens,
    outside: Tokens,
    *,
    scores: Sequence[str],
    test: float,
    draws: int,
    batch_size: int | None,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    points, texts = model.n_layers + 1, len(inside.ids) + len(outside.ids)
    widest = max(
        part.ids.numel() for given in (inside, outside) for part, _ in split(given, batch_size)
    )
    held = 8 * points * texts * model.d_model
    held += points * widest * model.d_model * model.dtype.itemsize
    rows = points * texts if "energy" in scores and model.anatomy.head else 0
    every = inside.ids.numel() + outside.ids.numel()
    distances = 8.0 * points * texts * len(inside.ids) * model.d_model
    count = 1.0
    if not set(BLOOD).isdisjoint([scores] if isinstance(scores, str) else scores):
        heads = max(block.n_heads for block in model.anatomy.blocks)
        longest = max(*inside.lengths, *outside.lengths)
        held += widest * (20 * model.d_model + heads * longest) * model.dtype.itemsize
        share = (test * inside.ids.numel() + outside.ids.numel()) / every
        count += share * (2 + draws)
    return Work(count, rows, held, tokens=every, operations=distances)


@analysis(
    name="out_of_distribution",
    question="At which depth can texts of another kind be told from those that are known?",
    source="Lee et al. (2018), A Simple Unified Framework for Detecting Out-of-Distribution "
    "Samples and Adversarial Attacks, arXiv 1807.03888 (Mahalanobis distance); Sun et al. (2022), "
    "Out-of-Distribution Detection with Deep Nearest Neighbors, arXiv 2204.06507; Liu et al. "
    "(2020), Energy-based Out-of-distribution Detection, arXiv 2010.03759; Jelenić et al. (2024), "
    "Out-of-Distribution Detection by Leveraging Between-Layer Transformation Smoothness, arXiv "
    "2310.02832 (BLOOD)",
    cost="1 pass; for BLOOD 2 more of the texts that are measured, and draws passes back",
    view="panels",
    lead="At 1 every outside text scores higher than every inside one, at 0.5 the score knows "
    "nothing; the band of chance is what one half of the inside texts against the other gives.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    inputs=("inside", "outside"),
    pooled=True,
    effects={
        "neighbours": holding("scores", "knn"),
        "ridge": holding("scores", "mahalanobis"),
        "draws": holding("scores", *BLOOD),
    },
)
def out_of_distribution(
    job: Job,
    model: LensModel,
    inside: Tokens,
    outside: Tokens,
    *,
    scores: Sequence[str] = USUAL,
    pool: str = "last",
    neighbours: int = 5,
    ridge: float = 1e-6,
    draws: int = 4,
    test: float = 0.5,
    seed: int = 0,
    skip_first: bool | int = False,
    batch_size: int | None = None,
) -> None:
    """Score texts after each layer by how unlike known ones their state is.

    Scores are fitted on a part of ``inside``. The rest of it, which they have not seen, is held
    against ``outside``: the area under the ROC curve, the areas under the curves of precision over
    recall of either kind, and the share of outside texts that pass where 95 % of the inside ones
    do. Each text is one state, that of its last token or the mean.

    Parameters
    ----------
    inside
        Texts of the known kind; where they are labelled, ``ll.texts(texts, label=[...])``, the
        Mahalanobis distance is that from the nearest mean of a label.
    outside
        Texts of another kind.
    scores
        ``mahalanobis``: squared distance from the mean, in units of the covariance; ``knn``:
        distance from a near known state, both cut to length 1; ``energy``: minus the log-sum-exp
        of the logits that the head gives to the state, or to all states of the text where it
        answers once for a text (a classifier); ``blood``: squared Frobenius norm of the
        Jacobian of the block before, by the last token's state at that token; ``blood_mean``: the
        mean of these over the blocks from the second one to this, so that the last depth has
        BLOOD_M of all blocks, and ``blood`` BLOOD_L there. These and ``energy`` are fitted to
        nothing. Larger is less alike.
    pool
        ``last``: the state of a text's last token; ``mean``: the mean of its tokens.
    neighbours
        The distance is that from the so-manieth nearest known state.
    ridge
        Added to the variance in each direction, in units of the mean variance.
    draws
        Random sign vectors ``v`` for each Jacobian ``J``, whose norm is the mean of ``|J^T v|^2``;
        all texts have the same ones.
    test
        Share of the inside texts (or of their groups) to set apart from the fit.
    seed
        Of what is set apart, of the halves and of the intervals.
    skip_first
        Leave out the first token of each text (or so many) from the means.
    batch_size

    Notes
    -----
    ``chance (halves of inside)`` is the control: the inside texts that were set apart are dealt
    into two halves, over and over, and one stands in for the outside texts. What lies between its
    ``_low`` and ``_high`` (95 % of the halves) is no sign of another kind; where a half has few
    texts that is nearly everything. The other intervals are over texts (or groups) of either side,
    with the fit as it is.

    An area far below 0.5 tells the kinds apart as well, only that this score calls the outside
    texts the more usual ones. Kinds that differ in length, punctuation or first words are told
    apart by these, from the first layers on: match the texts where that is not the question.

    ``aupr_out`` counts outside texts as what is looked for, ``aupr_in`` inside ones, with the score
    turned round. Both depend on how many texts there are of either kind: what knows nothing has the
    kind's share, or more where texts are few, and chance is drawn at the same share.

    BLOOD is published for the token that a classifier reads, with two random vectors for each of 50
    products; one gives the same mean with less noise. It is of the last token whatever ``pool`` is,
    and there is none at the embedding, before any block. Its mean leaves the first block out, as
    published, which has the embedding before it; a block that stretches far more than the others
    has most of the mean.

    Where fewer texts are fitted than a state has entries, what lies outside of the span of their
    states is measured by the ridge alone and outweighs the rest of the Mahalanobis distance.

    Raises
    ------
    InputError
        An option does not fit, or the texts are too few to be set apart, or for ``neighbours``.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> known, other = [[5, i, 5] for i in range(20, 32)], [[5, i, i] for i in range(20, 26)]
    >>> found = ll.out_of_distribution(model, known, other, scores=["knn"])
    >>> float(found.data.auroc.sel(score="knn", point="embed"))
    1.0
    """
    require_pool(pool, skip_first, inside)
    require_pool(pool, skip_first, outside)
    asked = _asked(job, model, scores, ridge)
    run = _Run(job, model, inside, outside, asked, seed, test)
    run.require_neighbours(neighbours)
    if whole(draws, "draws") < 1:
        raise InputError(f"draws is {draws}; expected at least 1.")
    points = ["embed", *(f"{layer}_post" for layer in range(model.n_layers))]
    job.declare(
        {"point": len(points), "score": len(asked) + 1},
        {
            "point": (("point",), np.array(points)),
            "score": (("score",), np.array([*asked, CHANCE])),
            "layer": (("point",), np.arange(-1, model.n_layers, dtype=np.int32)),
        },
    )
    once = "energy" in asked and run.once
    read = [
        _states(job, model, tokens, (pool, skip_first), batch_size, once)
        for tokens in (inside, outside)
    ]
    states, run.energies = [each for each, _ in read], [each for _, each in read]
    job.note(inside_texts=len(inside.ids), outside_texts=len(outside.ids))
    for point in range(len(points)):
        run.point(point, states[0][point], states[1][point], neighbours, ridge)
        job.progress(point + 1, len(points), "depths")
    if not set(BLOOD).isdisjoint(asked):
        run.blood(inside, outside, draws, batch_size)
    run.check(row_of(inside, 0), states[0][:, 0], (pool, skip_first))


def _asked(job: Job, model: LensModel, scores: Sequence[str], ridge: float) -> list[str]:
    """The scores that this model has."""
    asked = [scores] if isinstance(scores, str) else list(dict.fromkeys(scores))
    for score in asked:
        if score not in SCORES:
            raise nearest(str(score), list(SCORES), "Score of out_of_distribution:")
    if not ridge > 0 or not np.isfinite(ridge):
        raise InputError(f"ridge is {ridge!r}; expected a positive number.")
    if "energy" in asked and model.anatomy.head is None:
        asked.remove("energy")
        job.remark(f"{model.name} has no language-model head, so there is no energy.")
    if not set(BLOOD).isdisjoint(asked) and (lack := ABILITIES["gradients"](model)):
        asked = [score for score in asked if score not in BLOOD]
        job.remark(f"There is no BLOOD: {model.name} {lack}.")
    if not asked:
        raise InputError(f"No score is left to measure: give one of {', '.join(SCORES)}.")
    return asked


def _states(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    how: tuple[str, bool | int],
    batch_size: int | None,
    once: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """One state a text, ``[point, text, d_model]`` float64, and with ``once`` its energies."""
    states = np.empty((model.n_layers + 1, len(tokens.ids), model.d_model))
    answered = np.full(states.shape[:2], np.nan)
    for one in passes(model, tokens, how[1], batch_size, job.tick):
        states[:, one.batch.numbers] = pooled(one, how[0])
        if once:
            answered[:, one.batch.numbers] = answered_energies(model, one, job.tick)
    return states, answered


class _Run:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        inside: Tokens,
        outside: Tokens,
        scores: list[str],
        seed: int,
        test: float,
    ) -> None:
        self.job, self.model, self.scores, self.seed = job, model, scores, seed
        self.units = {
            name: np.array(job.groups(name) or range(len(tokens.ids)), dtype=str)
            for name, tokens in (("inside", inside), ("outside", outside))
        }
        for name, tokens in (("inside", inside), ("outside", outside)):
            if len(self.units[name]) != len(tokens.ids):
                raise InputError(
                    f"There are {len(self.units[name])} {name} groups for {len(tokens.ids)} rows: "
                    "leave empty texts out, and do not cut or pack them."
                )
        self.fold = fold = job.split(seed, test, of="inside")
        self.train, self.test = np.array(fold.train), np.array(fold.test)
        if len(np.unique(self.units["inside"][self.test])) < 2:
            raise InputError(
                f"Of the inside texts a single {fold.by} is set apart, which has no halves to "
                "compare: give more, or a larger test."
            )
        labels = job.labels("inside", needed=False) or [""] * len(inside.ids)
        self.place = np.unique([str(labels[i]) for i in self.train], return_inverse=True)[1]
        self.head = Head.of(model) if "energy" in scores else None
        self.once = model.anatomy.head is not None and model.anatomy.head.pool is not None
        self.energies: list[np.ndarray] = []
        self.tokens = len(inside.ids), len(outside.ids)
        self.ours: list[list[np.ndarray]] = [[] for _ in range(model.n_layers + 1)]
        self.off = 0.0
        job.note(passes=1)
        if "mahalanobis" in scores and len(self.train) <= model.d_model:
            job.remark(
                f"{len(self.train)} texts fit a covariance of {model.d_model} entries: the "
                "Mahalanobis distance is mostly what lies outside of the span of their states."
            )

    def require_neighbours(self, neighbours: int) -> None:
        """Refuse a neighbour that there is not."""
        if whole(neighbours, "neighbours") < 1:
            raise InputError(f"neighbours is {neighbours}; expected at least 1.")
        if "knn" in self.scores and neighbours > len(self.train):
            raise InputError(
                f"neighbours is {neighbours} and scores are fitted on {len(self.train)} texts: "
                "give more inside texts, or fewer neighbours."
            )

    def point(
        self, point: int, inside: np.ndarray, outside: np.ndarray, neighbours: int, ridge: float
    ) -> None:
        """Fit and measure all scores at one point."""
        known = inside[self.train]
        measured = np.concatenate([inside[self.test], outside])
        for score in self.scores:
            self.job.tick()
            if score in BLOOD:
                continue
            if score == "mahalanobis":
                gaussian = Gaussian.of(known, self.place, ridge)
                values = gaussian(measured)
                self._moments(gaussian, known)
            elif score == "knn":
                values = neighbour_distance(measured, known, neighbours)
            elif self.once:
                ours, others = (each[point] for each in self.energies)
                values = np.concatenate([ours[self.test], others]).round(DECIMALS)
            else:
                assert self.head is not None
                values = energies(self.model, self.head, measured, self.job.tick).round(DECIMALS)
            self._separate(point, score, values)
        self._chance(point)

    def blood(self, inside: Tokens, outside: Tokens, draws: int, batch_size: int | None) -> None:
        """Measure how far each block stretches the last token's state."""
        job, asked = self.job, [score for score in BLOOD if score in self.scores]
        measured = Stretch(self.model, draws, self.seed, job.tick)
        parts = [measured.of(inside, batch_size, self.fold.test), measured.of(outside, batch_size)]
        values = scores_by_depth(np.concatenate(parts, axis=1))
        for point in range(self.model.n_layers + 1):
            for score in asked:
                if np.isnan(values[score][point]).any():
                    nothing = dict.fromkeys(VARIABLES, np.nan)
                    self._emit(point, self.scores.index(score), nothing)
                else:
                    self._separate(point, score, values[score][point])
            self._chance(point)
        every = self.tokens[0] + self.tokens[1]
        job.note(passes=1 + (2 + draws) * (len(self.test) + self.tokens[1]) / every)
        what = "states after each block run alone against those of the pass, of the largest"
        job.check("block alone equals the pass", measured.replayed, tolerance(self.model), what)

    def _separate(self, point: int, score: str, values: np.ndarray) -> None:
        ours, others = values[: len(self.test)], values[len(self.test) :]
        self.ours[point].append(ours)
        units = self.units["inside"][self.test], self.units["outside"]
        self._emit(point, self.scores.index(score), separation(ours, others, units, self.seed))

    def _chance(self, point: int) -> None:
        """Of all scores that there are at a point so far."""
        found = dict.fromkeys(VARIABLES, np.nan)
        if self.ours[point]:
            units = self.units["inside"][self.test]
            odds = self.tokens[1] / len(self.test)
            found = between_halves(np.stack(self.ours[point]), units, self.seed, odds)
        self._emit(point, len(self.scores), found)

    def _emit(self, point: int, number: int, found: dict[str, float]) -> None:
        arrays = {name: np.array(value) for name, value in found.items()}
        self.job.emit({"point": point, "score": number}, arrays)

    def _moments(self, gaussian: Gaussian, known: np.ndarray) -> None:
        """The mean distance of what was fitted from its own mean is the trace of its whitening."""
        off = known - gaussian.means[self.place]
        along = off @ gaussian.axes.T
        mean = float((along**2 / (gaussian.spread + gaussian.ridge)).sum(1).mean())
        wanted = float((gaussian.spread / (gaussian.spread + gaussian.ridge)).sum())
        self.off = max(self.off, abs(mean - wanted) / max(wanted, 1.0))

    def check(self, first: Tokens, states: np.ndarray, how: tuple[str, bool | int]) -> None:
        """Compare with the first text by itself, and with the model's own logits."""
        once = self.head is not None and self.once
        read = _states(self.job, self.model, first, how, None, once)
        alone, energy = (array[:, 0] for array in read)
        error = float(np.abs(alone - states).max()) / max(1.0, float(np.abs(states).max()))
        what = "states of the first text by itself against those of its batch, of the largest entry"
        self.job.check("alone as in a batch", error, logit_tolerance(self.model.dtype), what)
        if "mahalanobis" in self.scores:
            what = "mean squared distance of the fitted texts against the trace that it must be"
            self.job.check("distances add up", self.off, 1e-6, what)
        if self.head is not None and (how[0] == "last" or once):
            logits = forward(self.model, first, [], lambda site, value: None, logits="last")
            assert logits is not None
            own = -float(logits[0, -1].double().logsumexp(-1))
            if not once:
                energy = energies(self.model, self.head, states[-1:], self.job.tick)
            error = abs(float(energy[-1]) - own) / max(1.0, float(logits.abs().max()))
            what = "energy after the last block against that of the logits, of the largest one"
            self.job.check("energy of the logits", error, logit_tolerance(self.model.dtype), what)
