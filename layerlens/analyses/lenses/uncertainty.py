"""Doubts about every token of some texts, their sums, and how they stand to labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.parts import Variable, with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.auroc import with_controls
from layerlens.analyses.lenses.checks import numbers
from layerlens.analyses.lenses.claims import Judge, claim_probability
from layerlens.analyses.lenses.token_labels import Unit, units_of
from layerlens.analyses.lenses.uncertain_text import Certainty, read_text
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.contract.parts import Where
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.run.head_rows import Head

MEASURES = ("token", "top", "margin", "entropy", "layers")
CLAIM = "claim"
"""The measure that a judge is needed for."""
POSITION = "position"
"""The score that knows nothing but where a token stands: a control."""
WORST = 0.2
"""Share of the tokens, the least likely ones, that the worst numbers are the mean of."""
LEAST_SPREAD = 1e-6
"""Nats; a spread below it is rounding of the logits, and a score over it would be noise."""
MIN_K_PLUS = (
    "Zhang et al., Min-K%++: Improved Baseline for Detecting Pre-Training Data from Large "
    "Language Models (2024), arXiv 2404.02936"
)

_TEXT, _TOKEN = ("text?",), ("text?", "position")
VARIABLES = {
    "doubt": Variable(
        ("text?", "measure", "position"), "float64", "1", "doubt about the token, 0 to 1"
    ),
    "surprisal": Variable(_TOKEN, "float64", "nats", "surprisal of the token"),
    "entropy": Variable(_TOKEN, "float64", "nats", "entropy of the prediction of the token"),
    "standard_score": Variable(
        _TOKEN,
        "float64",
        "standard deviations",
        "log probability of the token against what its prediction expects",
        signed=True,
        formula="(ln p(token) − E ln p) / SD ln p, over the prediction p itself",
        source=MIN_K_PLUS,
    ),
    "margin": Variable(_TOKEN, "float64", "1", "probability of the top token minus the second's"),
    "layer_agreement": Variable(_TOKEN, "float64", "1", "share of layers with the same top token"),
    "claim_probability": Variable(
        _TOKEN, "float64", "1", "probability of the claim among those that it rules out"
    ),
    "rank": Variable(_TOKEN, "int32", "1", "rank of the token, 1 = best"),
    "token_id": Variable(_TOKEN, "int32", "1", "the token", is_token=True),
    "top_id": Variable((*_TOKEN, "k"), "int32", "1", "predicted token, best first", is_token=True),
    "top_probability": Variable(
        (*_TOKEN, "k"), "float64", "1", "probability of the predicted token"
    ),
    "mean_surprisal": Variable(_TEXT, "float64", "nats", "mean surprisal of the tokens"),
    "sequence_surprisal": Variable(_TEXT, "float64", "nats", "surprisal of all of them together"),
    "mean_entropy": Variable(_TEXT, "float64", "nats", "mean entropy of the predictions"),
    "worst_surprisal": Variable(
        _TEXT, "float64", "nats", "mean surprisal of the least likely fifth of the tokens"
    ),
    "worst_standard_score": Variable(
        _TEXT,
        "float64",
        "standard deviations",
        "mean standard score of the fifth of the tokens where it is lowest (Min-K%++)",
        signed=True,
        source=MIN_K_PLUS,
    ),
    "claim_score": Variable(
        _TEXT, "float64", "1", "probability of all claims among those that they rule out"
    ),
    **with_interval(
        "auroc",
        Variable(("score",), "float64", "1", "chance that what is labelled 1 has the larger score"),
        "texts, or tokens of one text",
    ),
    **with_interval(
        "auroc_shuffled",
        Variable(("score",), "float64", "1", "the same with shuffled labels"),
        "shuffles",
    ),
    "wrong": Variable((), "int32", "1", "tokens or spans labelled 1"),
    "right": Variable((), "int32", "1", "tokens or spans labelled 0"),
}


class Uncertainty:
    """The work of one call.

    Parameters
    ----------
    job, model, tokens
        What is read.
    starts
        Of each text, the first token that counts in sums and labels.
    top_k
        How many of the likeliest tokens are kept.
    judge
        See `layerlens.analyses.lenses.claims.Judge`.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        starts: Sequence[int],
        top_k: int,
        judge: Judge | None,
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.top_k, self.judge = top_k, judge
        self.measures = [*MEASURES, *([CLAIM] if judge else [])]
        self.counted = [
            np.arange(length) >= start for length, start in zip(tokens.lengths, starts, strict=True)
        ]
        self.labelled: list[Unit] = []
        self.doubts: list[np.ndarray] = []

    def units(self, labels: Any) -> None:
        """Read the labels, and say which axes the answer has."""
        if labels is not None:
            self.labelled = units_of(self.model, self.tokens, labels, self.counted)
        cells = Cells(self.model, self.tokens)
        sizes, coords = cells.sizes(), cells.coords()
        texts = sizes.pop("batch", 0)
        coords.pop("text", None)
        coords = {
            name: (tuple("text" if axis == "batch" else axis for axis in axes), values)
            for name, (axes, values) in coords.items()
        }
        counts = np.zeros(self.tokens.ids.shape, dtype=bool)
        for row, counted in enumerate(self.counted):
            counts[row, : len(counted)] = counted
        coords["counts"] = (coords["token"][0], counts if texts else counts[0])
        coords["measure"] = (("measure",), np.array(self.measures))
        sizes |= {"measure": len(self.measures), "k": self.top_k}
        sizes |= {"text": texts} if texts else {}
        if self.labelled:
            coords["score"] = (("score",), np.array([*self.measures, POSITION]))
            sizes["score"] = len(self.measures) + 1
        without = set() if self.judge else {"claim_probability", "claim_score"}
        without |= set() if self.labelled else {"wrong", "right"}
        self.job.declare(sizes, coords, only=[name for name in VARIABLES if name not in without])

    def run(self, head: Head, reader: Reader, points: Sequence[Point], *, wrote: bool) -> None:
        """Read one text after the other, hand over its numbers, then hold them against labels."""
        errors, behind, size = 0, 0.0, 1.0
        texts = len(self.tokens.ids)
        for row in range(texts):
            found = read_text(
                self.job,
                self.model,
                row_of(self.tokens, row),
                head=head,
                reader=reader,
                points=points,
                top_k=self.top_k,
                check=row == 0,
            )
            errors, size = errors + found.rank_errors, max(size, found.largest_logit)
            behind = max(behind, found.behind[self.counted[row]].max()) if wrote else behind
            self._text(row, found)
            self.job.progress(row + 1, texts, "texts")
        numbers(self.job, errors)
        if wrote:
            what = "how far the logit of a token that was written lies behind the largest"
            limit = logit_tolerance(self.model.dtype) * size
            self.job.check("what is written is on top", behind, limit, what)
        if self.labelled:
            self._against_labels()

    def _text(self, row: int, found: Certainty) -> None:
        """Hand over all numbers of a text."""
        where: Where = {} if self.tokens.single else {"text": row}
        top = found.top_probability
        margin = top[:, 0] - top[:, 1]
        doubts = [
            -np.expm1(-found.surprisal),
            1 - top[:, 0],
            1 - margin,
            found.entropy / np.log(self.model.d_vocab),
            1 - found.agreement,
        ]
        ids = self.tokens.ids[row][self.tokens.mask[row]].numpy()
        score = (found.entropy - found.surprisal) / np.maximum(found.spread, LEAST_SPREAD)
        arrays = {
            "surprisal": found.surprisal,
            "entropy": found.entropy,
            "standard_score": score,
            "margin": margin,
            "layer_agreement": found.agreement,
            "rank": found.rank,
            "token_id": ids,
            "top_id": found.top_id,
            "top_probability": top,
        }
        self.job.emit(where, {name: self._padded(each) for name, each in arrays.items()})
        for place, doubt in enumerate(doubts):
            self.job.emit({**where, "measure": place}, {"doubt": self._padded(doubt)})
        counted = self.counted[row]
        known = counted & np.isfinite(found.surprisal)
        surprisal = found.surprisal[known]
        few = int(np.ceil(WORST * len(surprisal)))
        sums = {
            "mean_surprisal": _mean(surprisal),
            "sequence_surprisal": surprisal.sum(),
            "mean_entropy": _mean(found.entropy[counted]),
            "worst_surprisal": _mean(-np.sort(-surprisal)[:few]),
            "worst_standard_score": _mean(np.sort(score[known])[:few]),
        }
        self.job.emit(where, {name: np.array(value) for name, value in sums.items()})
        if self.judge is not None:
            doubts.append(1 - self._claims(row, found, self.judge, where))
        self.doubts.append(np.stack(doubts))

    def _claims(self, row: int, found: Certainty, judge: Judge, where: Where) -> np.ndarray:
        """Claim-conditioned probability ``[T]``, each handed over as it is judged."""
        tokens = row_of(self.tokens, row)
        strings, words = tokens.strings[0], self.model.vocabulary
        special = [int(index) in words.special for index in tokens.ids[0]]
        before = ""
        claims = np.full(len(strings), np.nan)
        empty = np.full(self.tokens.ids.shape[1], np.nan)
        self.job.emit(where, {"claim_probability": empty})
        self.job.emit({**where, "measure": len(MEASURES)}, {"doubt": empty})
        for at, said in enumerate(strings):
            if self.counted[row][at] and np.isfinite(found.surprisal[at]):
                self.job.tick()
                others = [
                    (words.string(int(index)), float(probability))
                    for index, probability in zip(
                        found.top_id[at], found.top_probability[at], strict=True
                    )
                    if index != int(tokens.ids[0, at])
                ]
                own = (said, float(np.exp(-found.surprisal[at])))
                claims[at] = claim_probability(judge, before, own, others)
                here: Where = {**where, "position": at}
                self.job.emit(here, {"claim_probability": claims[at]})
                self.job.emit({**here, "measure": len(MEASURES)}, {"doubt": 1 - claims[at]})
            before += "" if special[at] else said
        known = claims[np.isfinite(claims)]
        self.job.emit(where, {"claim_score": np.array(known.prod() if len(known) else np.nan)})
        return claims

    def _against_labels(self) -> None:
        """How well each score tells what was labelled 1 from what was labelled 0."""
        positive = np.array([unit.positive for unit in self.labelled])
        text = np.array([unit.text for unit in self.labelled])
        wrong = int(positive.sum())
        for place, measure in enumerate([*self.measures, POSITION]):
            scores = np.array([self._score(unit, measure) for unit in self.labelled])
            found = with_controls(scores, positive, text)
            self.job.emit({"score": place}, found)
            if measure == MEASURES[0]:
                self.job.remark(
                    f"{wrong} labelled wrong and {len(positive) - wrong} right: the 95 % interval "
                    f"of auroc by {measure} is {found['auroc_low']:.2f} to "
                    f"{found['auroc_high']:.2f}, 0.5 tells nothing"
                )
        sums = {"wrong": np.array(wrong), "right": np.array(len(positive) - wrong)}
        self.job.emit({}, sums)

    def _score(self, unit: Unit, measure: str) -> float:
        """The score of a token or span: its mean doubt, of products 1 minus the product."""
        if measure == POSITION:
            return float(np.mean(unit.positions))
        doubt = self.doubts[unit.text][self.measures.index(measure), unit.positions]
        if measure == "token":
            return float(-np.expm1(np.log1p(-np.minimum(doubt, 1 - 1e-12)).mean()))
        return float(1 - np.prod(1 - doubt)) if measure == CLAIM else float(doubt.mean())

    def _padded(self, values: np.ndarray) -> np.ndarray:
        """Numbers of a text's tokens, with what stands for none behind its end."""
        width = self.tokens.ids.shape[1] - len(values)
        fill = np.nan if values.dtype.kind == "f" else -1
        return np.pad(values, [(0, width), *[(0, 0)] * (values.ndim - 1)], constant_values=fill)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
