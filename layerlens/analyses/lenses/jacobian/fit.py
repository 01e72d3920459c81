"""The work of one call that fits a Jacobian lens: prompt after prompt, then the texts set apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Variable
from layerlens.analyses.lenses.fitting.asked import JACOBIAN
from layerlens.analyses.lenses.fitting.begun import begun_lens
from layerlens.analyses.lenses.fitting.documents import count_kept, seen
from layerlens.analyses.lenses.fitting.frame import check_judged, declare, sides
from layerlens.analyses.lenses.fitting.judge import VARIABLES as MEASURES
from layerlens.analyses.lenses.fitting.judge import Judge, Tally, flat, judge_all
from layerlens.analyses.lenses.jacobian.audit import pushed
from layerlens.analyses.lenses.jacobian.mean import JacobianMean
from layerlens.analyses.lenses.jacobian.plan import plan_jacobian
from layerlens.analyses.lenses.jacobian.prompt import SELF, Prompt, weights_of
from layerlens.analyses.lenses.readers import LOGIT, Reader
from layerlens.corpus.shard import batches
from layerlens.errors import InputError, ModelError
from layerlens.result.fitted import Fitted, ModelFacts
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.fitting.asked import Asked
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

VARIABLES = {
    "halves_cosine": Variable(
        ("point",), "float32", "1", "cosine of the matrices of two halves of the prompts"
    ),
    "halves_error": Variable(
        ("point",), "float32", "1", "distance of these matrices, as a share of the matrix"
    ),
}
"""How steady the matrix of each point is so far; there from the second prompt on."""
SCALED, NORMED = 4.0, 1e-2
"""A norm takes this factor away, up to this share of what it gives."""
AUDIT = {torch.float64: 1e-7, torch.float32: 1e-3}
"""How far forward and backward mode may be apart, as a share; 5e-2 in half precision."""


class JacobianFit:
    """The work of one call.

    Parameters
    ----------
    job, texts
        As the analysis is given them.
    asked
        Its options.

    Raises
    ------
    InputError
        No text is long enough.
    ModelError
        Nothing before the head takes the size of a state away.
    """

    ARRAY = "jacobian"
    """What the array of each point is called, behind its label."""
    SHOWN: tuple[str, ...] = (*MEASURES, *VARIABLES)
    """Variables that are emitted."""

    def __init__(self, job: Job, texts: Tokens | Texts, asked: Asked) -> None:
        self.job, self.asked, self.model, self.texts = job, asked, asked.model, texts
        require_norm(self.model)
        train, self.test = sides(job, texts, asked)
        self.prompts = [row for row in train if len(row.ids) > asked.skipped + 1]
        if not self.prompts:
            raise InputError(
                f"No text has more than {asked.skipped + 1} tokens, and the first {asked.skipped} "
                "and the last do not count: give longer texts, or a smaller positions_skipped."
            )
        if short := len(train) - len(self.prompts):
            job.remark(
                f"{short} of {len(train)} texts have no more than {asked.skipped + 1} tokens and "
                "do not count."
            )
        self.width, self.points = self.model.d_model, asked.chosen
        self.rows = asked.rows
        longest = max(len(row.ids) for row in self.prompts)
        self.plan = plan_jacobian(
            self.model, len(self.points), self.rows, longest, asked.memory_limit
        )
        self.mean = JacobianMean([point.label for point in self.points], self.rows, self.width)
        self.audited: list[float] = []
        self.unaudited = ""

    def run(self) -> None:
        """Take prompts in, judge, check."""
        self._declare()
        self._resume()
        beyond = 0.0
        left = self.prompts[self.mean.prompts :]
        for number, row in enumerate(left):
            prompt, tokens, weights = self._prompt(row)
            if number == 0:
                beyond = prompt.beyond()
                self._audit(tokens, weights, self._take(prompt, audit=True))
            else:
                self._take(prompt)
            self.mean.ended()
            self._hand_over()
        self._judge()
        self._end(len(left), beyond)

    def _declare(self) -> None:
        declare(self.job, self.asked, self.SHOWN)

    def _cotangents(self, start: int, stop: int) -> Tensor:
        """Directions ``[n, d_model]`` in the last state whose derivatives are these rows."""
        cotangents = torch.zeros(stop - start, self.width)
        cotangents[:, start:stop] = torch.eye(stop - start)
        return cotangents

    def _resume(self) -> None:
        begun = begun_lens(self.texts, self.asked)
        if begun is None:
            return
        if lacking := [label for label in self.mean.labels if f"{label}.{self.ARRAY}" not in begun]:
            raise InputError(
                f"The lens to resume has no matrix for {', '.join(lacking)}: ask for the points "
                "that it has, or begin anew."
            )
        scores = begun.scores["train"]
        self.mean.take_over(
            int(scores["prompts"]),
            {label: begun[f"{label}.{self.ARRAY}"] for label in self.mean.labels},
            {label: scores.get(f"halves_error/{label}", 0.0) for label in self.mean.labels},
        )
        self._hand_over()

    def _prompt(self, row: Row) -> tuple[Prompt, Tokens, Tensor]:
        """The graph of one text, its tokens, and what its positions count."""
        asked = self.asked
        seed = (asked.seed, row.number)
        weights = weights_of(len(row.ids), asked.skipped, asked.reduction, seed)
        ((tokens, _),) = batches(self.model, [row], len(row.ids))
        made = Prompt(self.model, tokens, self.points, weights, self.plan.rows, self.job.tick)
        return made, tokens, weights

    def _take(self, prompt: Prompt, *, audit: bool = False) -> Tensor:
        """Take in all rows of a prompt; with `audit`, its products with a random direction."""
        size = self.plan.rows
        starts = range(0, self.rows, size)
        direction = self._direction()
        products = torch.zeros(len(self.points), self.rows)
        fed = [len(row.ids) for row in self.prompts]
        before, own = sum(fed[: self.mean.prompts]), fed[self.mean.prompts]
        for number, start in enumerate(starts):
            stop = min(start + size, self.rows)
            found = prompt.pull(self._cotangents(start, stop))
            self.mean.add(start, found)
            if audit:
                products[:, start:stop] = found @ direction
            what = f"prompt {self.mean.prompts + 1} of {len(self.prompts)}"
            self.job.progress(before + own * (number + 1) // len(starts), sum(fed), what)
        return products

    def _direction(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.asked.seed)
        return torch.randn(self.width, generator=generator)

    def _audit(self, tokens: Tokens, weights: Tensor, products: Tensor) -> None:
        """Compare the first prompt's products with those of forward mode."""
        for point, product in zip(self.points, products, strict=True):
            self.job.tick()
            moved = pushed(self.model, tokens, point, weights, self._direction())
            if moved is None:
                self.unaudited = point.label
                continue
            own = self._cotangents(0, self.rows) @ moved
            size = max(float(own.norm()), torch.finfo(torch.float32).tiny)
            self.audited.append(float((product - own).norm()) / size)

    def _hand_over(self) -> None:
        """Hand over the means of what was taken in, and how steady they are."""
        means = self.mean.means()
        halves = self.mean.halves(means)
        scores = {"prompts": float(self.mean.prompts)}
        for name, values in halves.items():
            known = zip(self.mean.labels, values.tolist(), strict=True)
            scores |= {f"{name}/{label}": value for label, value in known if np.isfinite(value)}
        arrays = {f"{label}.{self.ARRAY}": matrix for label, matrix in means.items()}
        self.job.learned(arrays, {"train": scores})
        self.job.emit({}, {name: values.astype(np.float32) for name, values in halves.items()})

    def _judge(self) -> None:
        """Read the texts that were set apart."""
        model, points, lenses = self.model, self.points, self.asked.lenses
        lens = Fitted("jacobian_lens", dict(self.job.arrays), ModelFacts.of(model), "")
        readers = {LOGIT: Reader(model), JACOBIAN: Reader(model, JACOBIAN, lens)}
        head = Head.of(model, self.plan.head)
        tally, lowest = Tally(len(lenses), len(points)), 0.0
        for found in seen(model, self.test, points, self.asked.skipped, self.job.tick):
            judge = Judge(model, head, found.final, found.target, self.job.tick)
            lowest = min(lowest, judge_all(tally, judge, readers, points, found))
        means = tally.means()
        scores: dict[str, float] = {}
        for place, point in enumerate(points):
            here = {name: values[:, place] for name, values in means.items()}
            scores |= flat(here, lenses, JACOBIAN, point.label)
        self.job.learned(self.job.arrays, {"test": scores})
        self.job.emit({}, {name: values.astype(np.float32) for name, values in means.items()})
        behind = means["kl"][1] > means["kl"][0]
        self.job.remark(
            "A Jacobian lens says what a state disposes the model to say, now or later; of the "
            f"next token alone it is farther from the final answer than the logit lens at "
            f"{behind.sum()} of {len(points)} points."
        )
        check_judged(self.job, model, self.test[0], lowest)

    def _end(self, prompts: int, beyond: float) -> None:
        job, dtype = self.job, self.model.dtype
        job.note(
            passes=1 + (1 + self.rows) * bool(prompts),
            prompts=self.mean.prompts,
            test_tokens=count_kept(self.test, self.asked.skipped),
        )
        if dtype.itemsize < 4:
            job.remark(
                "This model computes in half precision, whose rounding adds up in a Jacobian: "
                "load it in float32 for a fit."
            )
        if self.asked.reduction == SELF:
            job.remark(
                "The derivative of one position alone is found with random signs, whose noise "
                "falls as one over the root of the number of prompts."
            )
        if self.unaudited:
            job.remark(
                f"At {self.unaudited} an operation of this model has no forward mode, so that the "
                "matrices up to there were not compared with one."
            )
        if prompts:
            job.check(
                "no derivative from later tokens", beyond, 0,
                "largest derivative of a token's last state by that of a later token",
            )  # fmt: skip
        if self.audited:
            job.check(
                "forward mode", max(self.audited), AUDIT.get(dtype, 5e-2),
                "the first prompt's matrix times a direction against one pass along it, relative",
            )  # fmt: skip


def require_norm(model: LensModel) -> None:
    """Refuse a model whose head sees how large a state is: a sum of derivatives has no size.

    Raises
    ------
    ModelError
        Nothing before the head takes the size away.
    """
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, model.d_model, generator=generator).to(model.device, model.dtype)
    with model.running():
        plain, scaled = (model.head_input(x).float() for x in (states, SCALED * states))
    if float((plain - scaled).norm() / plain.norm()) > NORMED:
        raise ModelError(
            f"A Jacobian lens cannot be fitted on {model.name}: no norm stands between its last "
            "block and its head, so that the size of a state counts, which a sum over later "
            "positions does not have; kind='ridge' can."
        )
