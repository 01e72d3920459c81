"""How far each block is from handing its input on: the derivative of what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.jacobian_cell import open_jacobian
from layerlens.analyses.sweeps.clean_pass import TokenMeans, require_tokens, tolerance
from layerlens.analyses.sweeps.jacobian_rows import RowJacobians, evenly
from layerlens.errors import InputError
from layerlens.metrics.batch import Batch, split
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

WORDS = {
    "jacobian_distance": "distance of the block's Jacobian from the identity",
    "jacobian_trace": "trace of the block's Jacobian over the width",
    "jacobian_off_diagonal": "share of the block's Jacobian off its diagonal",
}
CHANCE = " (state with its entries shuffled)"
VARIABLES = {
    name: variable
    for measure, words in WORDS.items()
    for chance, added in (("", ""), ("_chance", CHANCE))
    for name, variable in with_interval(
        measure + chance, Variable(("layer",), "float64", "1", words + added)
    ).items()
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    draws: int,
    per_text: int,
    skip_first: bool | int,
    seed: int,
) -> Work:
    """Count passes and bytes of one call; a pass back to the state alone counts as one more."""
    longest = max(tokens.lengths)
    heads = max(block.n_heads for block in model.anatomy.blocks)
    state = per_text * longest * model.d_model * model.dtype.itemsize
    inside = 20 * state + per_text * heads * longest**2 * model.dtype.itemsize
    return Work(per_text * (1 + 2 * (1 + draws)), 0, model.n_layers * state + inside)


@analysis(
    name="block_jacobian",
    question="Is a deep block nearly the identity: does a change of its input just pass through?",
    source="Sun et al. (2025), The Curse of Depth in Large Language Models, arXiv 2502.05795; "
    "estimates from random signs: Hutchinson (1990), A Stochastic Estimator of the Trace of "
    "the Influence Matrix",
    cost="per text and chosen token 1 pass, and 2 more with draws + 1 passes each",
    view="panels",
    lead="The nearer a layer's distance is to 0, the more a change of its input only passes "
    "through; the control says how much of that is the size of the state alone.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    gradients=True,
    opens=open_jacobian,
)
def block_jacobian(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    draws: int = 4,
    per_text: int = 4,
    skip_first: bool | int = True,
    seed: int = 0,
) -> None:
    """Measure the derivative of each block's output at a token by its input at that token.

    With ``J`` this square matrix of ``d`` rows, all other tokens held as they are:
    ``jacobian_distance`` is ``||J - I||_F / sqrt(d)``, 0 where the block hands every change on
    unaltered; ``jacobian_trace`` is ``tr(J) / d``, 1 there; ``jacobian_off_diagonal`` is the
    share of ``||J||_F^2`` that lies off the diagonal, 0 there.

    Parameters
    ----------
    draws
        Random sign vectors ``v`` for each token: the numbers are means over them of what the
        products ``J^T v`` say, without bias for squares and trace. The matrix is never formed.
    per_text
        How many tokens of each text, spread evenly over it.
    skip_first
        Never choose the first token of each text (or so many), whose state is unlike all others
        in many models.
    seed
        Of the sign vectors and of the shuffles.

    Notes
    -----
    Means over the chosen tokens of each text, then over texts, with intervals over texts.
    ``_chance`` is the control: the same at a state whose entries were shuffled. Its size, and so
    what a norm makes of it, stays; its direction means nothing. Where both are alike, the block
    passes changes on because the stream has grown large, whatever the text.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    ModelError
        The model's parts pass no gradient on.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.block_jacobian(model, [5, 9, 4, 5, 9])
    >>> found.data.jacobian_distance.dims
    ('layer',)
    """
    if whole(draws, "draws") < 2:
        raise InputError(f"draws is {draws}; expected at least 2, for a share without bias.")
    if whole(per_text, "per_text") < 1:
        raise InputError(f"per_text is {per_text}; expected at least 1.")
    require_tokens(tokens, skip_first)
    layers = np.arange(model.n_layers, dtype=np.int32)
    job.declare({"layer": model.n_layers}, {"layer": (("layer",), layers)})
    run = _Run(job, model, draws, seed)
    parts = split(tokens, 1)
    for done, (text, numbers) in enumerate(parts):
        batch = Batch(text, numbers, int(skip_first))
        at = evenly(batch.kept.position.tolist(), per_text)
        if at:
            run.text(batch, at)
        job.progress(done + 1, len(parts), "texts")
    run.finish()


class _Run:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, draws: int, seed: int) -> None:
        self.job, self.model, self.draws, self.seed = job, model, draws, seed
        names = (name + chance for name in WORDS for chance in ("", "_chance"))
        self.means = {name: TokenMeans(model.n_layers) for name in names}
        self.passes = 0.0
        self.replayed = self.later = 0.0

    def text(self, batch: Batch, at: list[int]) -> None:
        """Measure every block at some tokens of one text, each in a row of its own."""
        seed = (self.seed, int(batch.numbers[0]))
        rows = batch.tokens.repeated(len(at))
        found = RowJacobians(self.model, rows, at, self.job.tick)
        for layer in range(self.model.n_layers):
            for chance in ("", "_chance"):
                for name, value in found.of(layer, self.draws, seed, shuffled=bool(chance)).items():
                    self.means[name + chance].add_texts((layer,), value.mean()[None], batch)
            arrays = {name: mean.mean()[layer] for name, mean in self.means.items()}
            self.job.emit({"layer": layer}, arrays)
        self.passes += len(at) * (1 + 2 * (1 + self.draws))
        self.replayed = max(self.replayed, found.replayed)
        self.later = max(self.later, found.later)

    def finish(self) -> None:
        """Hand over the intervals, and what was verified."""
        arrays = {}
        for name, mean in self.means.items():
            arrays[name] = mean.mean()
            arrays[f"{name}_low"], arrays[f"{name}_high"] = mean.interval()
        self.job.emit({}, arrays)
        self.job.note(
            passes=self.passes,
            method="products of random signs with each block's Jacobian, by autograd",
        )
        if self.model.dtype.itemsize < 4:
            eps = torch.finfo(self.model.dtype).eps
            self.job.remark(
                f"This model computes in half precision: a distance of {eps:.1g} or less from the "
                "identity is rounding."
            )
        what = "states after each block run alone against those of the pass, of the largest"
        self.job.check("block alone equals the pass", self.replayed, tolerance(self.model), what)
        if not self.model.bidirectional:
            what = "largest derivative of a token's state by that of a later token"
            self.job.check("no derivative from later tokens", self.later, 0, what)
