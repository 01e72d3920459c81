"""How large the gradient of the loss is at each state and in each block's weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.text_gradients import (
    TextGradients,
    norm,
    recorded_block,
    recorded_bytes,
)
from layerlens.analyses.sweeps.clean_pass import TokenMeans, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_NEXT = {"": "", "_chance": ", next tokens shuffled"}
VARIABLES = {
    name: variable
    for chance, words in _NEXT.items()
    for name, variable in {
        **with_interval(
            f"state_gradient{chance}",
            Variable(("point",), "float64", "1", f"norm of the gradient by the state{words}"),
        ),
        **with_interval(
            f"weight_gradient{chance}",
            Variable(("layer",), "float64", "1", f"norm of the gradient by all weights{words}"),
        ),
    }.items()
} | {
    "loss": Variable((), "float64", "nats", "loss"),
    "loss_chance": Variable((), "float64", "nats", "loss, next tokens shuffled"),
}


def count_work(
    model: LensModel, tokens: Tokens, *, skip_first: bool | int, seed: int, verify: int
) -> Work:
    """Count passes, rows through the head and bytes of one call; a way back counts as two."""
    longest = max(tokens.lengths)
    state = longest * model.d_model * model.dtype.itemsize
    block = sum(p.numel() for p in model.hf.parameters()) / model.n_layers
    inside = recorded_bytes(model, longest)
    kept = model.n_layers * state + inside + round(block) * model.dtype.itemsize
    made = 1 + 1 + 2 * 2 + 3 * min(verify, len(tokens.lengths)) / len(tokens.lengths)
    return Work(made, 2 * sum(tokens.lengths), kept)


@analysis(
    name="gradient_norms",
    question="Where does the gradient of the loss grow or die on its way back through the layers?",
    source="Kim et al. (2025), Peri-LN: Revisiting Normalization Layer in the Transformer "
    "Architecture, arXiv 2502.02732 (gradient norms by layer)",
    cost="2 passes a text, and the way back, twice",
    view="panels",
    lead="How strongly the loss pulls at each state and at each layer's weights; the control asks "
    "for shuffled next tokens, so what both have in common is the model's and not the text's.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
)
def gradient_norms(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    skip_first: bool | int = False,
    seed: int = 0,
    verify: int = 1,
) -> None:
    """Carry the gradient of the loss back through the blocks and measure it on the way.

    With ``L`` the mean over next tokens of minus their log probability (nats), ``state_gradient``
    is the Euclidean norm of ``dL/dh`` over all tokens and entries of the states ``h`` before a
    block, and after the last (``embed`` is before the first block); ``weight_gradient`` that of
    ``L``'s derivative by all weights of a block, frozen ones too. Norms grow in proportion to the
    loss.

    Parameters
    ----------
    skip_first
        Leave the predictions at the first token of each text (or so many) out of the loss.
    seed
        Of the shuffles.
    verify
        Of how many texts the gradient at the embedding is found again by one pass of the whole
        model with its way back.

    Notes
    -----
    Means over texts of the norms of each, with intervals over texts: not the norm of the mean
    gradient, which a training step would see. ``_chance`` is the control: the same with the
    text's next tokens shuffled, so that they say nothing. Each block is run again for itself
    on the way back, so that no more than one block's gradients are held at once.

    Raises
    ------
    InputError
        A text has no next token that counts, or an option does not fit.
    ModelError
        The model has no head, reads in both directions, or has no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.gradient_norms(model, "cat dog owl cat dog")
    >>> found.data.state_gradient.dims, found.data.weight_gradient.dims
    (('point',), ('layer',))
    """
    skip = int(skip_first)
    if whole(skip, "skip_first") < 0 or skip > min(tokens.lengths) - 2:
        raise InputError(
            f"No next token counts: the shortest text has {min(tokens.lengths)} tokens and "
            f"skip_first is {skip_first}. Give longer texts, or skip_first=False."
        )
    shape, names = ModelShape.of(model), ("layer", "point", "point_layer")
    sizes = {axis: shape.sizes[axis] for axis in ("layer", "point")}
    job.declare(sizes, {name: shape.coords[name] for name in names})
    work = _Norms(job, model, tokens, skip)
    for row in range(len(tokens.ids)):
        work.text(row, seed, verified=row < verify)
        job.progress(row + 1, len(tokens.ids), "texts")
    work.finish()


class _Norms:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, tokens: Tokens, skip: int) -> None:
        self.job, self.model, self.tokens, self.skip = job, model, tokens, skip
        sizes = {"state_gradient": model.n_layers + 1, "weight_gradient": model.n_layers, "loss": 1}
        self.means = {
            name + chance: TokenMeans(size) for name, size in sizes.items() for chance in _NEXT
        }
        self.passes = 0
        self.replayed = 0.0
        self.off: list[float] = []

    def text(self, row: int, seed: int, *, verified: bool) -> None:
        """The norms of one text, and of the same with its next tokens shuffled."""
        found = TextGradients(
            self.model, row_of(self.tokens, row), self.skip, self.job.tick, self._weights
        )
        order = np.random.default_rng((seed, row)).permutation(len(found.following))
        wanted = found.following, found.following[torch.from_numpy(order)]
        losses, lasts = found.back(*wanted)
        for chance, loss, last in zip(_NEXT, losses, lasts, strict=True):
            self.means[f"loss{chance}"].add_number((0,), loss, row)
            self.means[f"state_gradient{chance}"].add_number((-1,), norm(last), row)
        for block in found.blocks(lasts):
            for chance, state, slopes in zip(_NEXT, block.states, block.inside, strict=True):
                states, weights = (f"{name}_gradient{chance}" for name in ("state", "weight"))
                self.means[states].add_number((block.layer,), norm(state), row)
                self.means[weights].add_number((block.layer,), norm(*slopes), row)
        self._show()
        self.passes += 1 + 1 + 2 * 2
        if verified:
            self._verify(found, wanted[0], block.states[0])
        self.replayed = max(self.replayed, found.replayed)

    def _weights(self, layer: int) -> AbstractContextManager[list[nn.Parameter]]:
        return recorded_block(self.model, layer)

    def _show(self) -> None:
        means = {name: mean.mean() for name, mean in self.means.items()}
        self.job.emit({}, {n: m[0] if n.startswith("loss") else m for n, m in means.items()})

    def _verify(self, found: TextGradients, wanted: Tensor, slope: Tensor) -> None:
        """The gradient at the embedding by one pass of the whole model and its way back."""
        whole_way = found.whole_way(wanted)[0][0]
        self.passes += 3
        size = norm(whole_way)
        self.off.append(norm(whole_way - slope.to(whole_way)) / max(size, 1e-12))

    def finish(self) -> None:
        """Hand over the intervals, and what was verified."""
        for name, mean in self.means.items():
            if not name.startswith("loss"):
                low, high = mean.interval()
                self.job.emit({}, {f"{name}_low": low, f"{name}_high": high})
        self.job.note(
            passes=self.passes / len(self.tokens.ids),
            method="one pass; the gradient goes back through each block, run again for itself",
        )
        limit = tolerance(self.model)
        what = "states after each block run again against those of the pass, of the largest"
        self.job.check("block alone equals the pass", self.replayed, limit, what)
        if self.off:
            what = "gradient at the embedding against one way back of the whole model, relative"
            self.job.check("naive agreement", max(self.off), limit, what)
