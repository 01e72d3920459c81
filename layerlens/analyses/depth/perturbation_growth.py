"""How a small change of the first state grows from layer to layer, at random and at its worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sweeps.clean_pass import TokenMeans, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import Batch
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STEP = 0.25
"""Length of an ascending step, in lengths of the change."""

_ROW = ("layer",)
_WAYS = {"worst": "the worst change found", "random": "random changes"}
VARIABLES = {
    name: variable
    for way, of in _WAYS.items()
    for name, variable in with_interval(
        f"growth_{way}", Variable(_ROW, "float64", "1", f"relative change of the states, {of}")
    ).items()
} | {
    "ratio": Variable(_ROW, "float64", "1", "worst over random change of the states"),
    "loss_change_worst": Variable((), "float64", "nats", "change of the loss, worst change"),
    "loss_change_random": Variable((), "float64", "nats", "change of the loss, random changes"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    epsilon: float,
    steps: int,
    draws: int,
    seed: int,
    skip_first: bool | int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    passes = 2 + draws + 3 * steps
    states = 30 * model.n_layers * max(tokens.lengths) * model.d_model * model.dtype.itemsize
    return Work(passes, passes * sum(tokens.lengths), states)


@analysis(
    name="perturbation_growth",
    question="Which layers make a small change of the first state larger, and which smaller?",
    source="Layer Sustainability Analysis (Khalooei et al. 2022), relative change of a layer's "
    "output; worst case by projected gradient steps (Madry et al. 2018)",
    cost="2 passes, 1 for each draw, and 1 with its gradient for each step",
    view="panels",
    lead="The change of the states after each layer, relative to their size; only where the worst "
    "change stands above random ones of the same size is a layer open to attack.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
)
def perturbation_growth(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    epsilon: float = 0.05,
    steps: int = 10,
    draws: int = 3,
    seed: int = 0,
    skip_first: bool | int = True,
) -> None:
    """Change every token's state before the first block a little and follow the change.

    With ``d_t`` the change of token ``t``'s state ``h_t``, ``|d_t| = epsilon * |h_t|``, and
    ``h`` and ``h'`` the states of a text after a layer without and with it, ``growth`` is
    ``|h' - h| / |h|`` (Frobenius norms over the tokens that count). ``random``: directions drawn
    at random. ``worst``: the first of them, moved in ``steps`` steps along the gradient of the
    text's loss, each a quarter of the change long and brought back to its length.

    Parameters
    ----------
    epsilon
        Length of the change, as a share of each state's.
    steps
        How many steps to the worst change.
    draws
        How many random changes of each text; their numbers are means over them.
    seed
        Of the draws.
    skip_first
        Leave out the first token of each text (or so many) from the norms and the loss; it is
        changed like any other. In many models its state is so large that it alone would count.

    Notes
    -----
    Means over texts, with intervals over them; ``ratio`` is that of the two means. The loss is
    that of the next token. A block that adds nothing leaves ``growth`` as it is.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    ModelError
        The model has no head, reads in both directions, or has no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.perturbation_growth(model, "cat dog owl cat", steps=2)
    >>> found.data.ratio.dims
    ('layer',)
    """
    if not 0 < epsilon <= 1:
        raise InputError(f"epsilon is {epsilon}; expected a share above 0, up to 1.")
    for name, number in (("steps", steps), ("draws", draws)):
        if whole(number, name) < 1:
            raise InputError(f"{name} is {number}; expected 1 or more.")
    if int(skip_first) < 0 or int(skip_first) > min(tokens.lengths) - 2:
        raise InputError(
            f"No next token counts: the shortest text has {min(tokens.lengths)} tokens and "
            f"skip_first is {skip_first}. Give longer texts, or skip_first=False."
        )
    layers = np.arange(model.n_layers, dtype=np.int32)
    job.declare({"layer": model.n_layers}, {"layer": (_ROW, layers)})
    growth = _Growth(job, model, tokens, epsilon, int(skip_first))
    for row in range(len(tokens.ids)):
        growth.add(row, steps, draws, seed)
        job.progress(row + 1, len(tokens.ids), "texts")
    growth.finish()


class _Growth:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, epsilon: float, skip: int
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.epsilon, self.skip = epsilon, skip
        self.growth = {way: TokenMeans(model.n_layers) for way in _WAYS}
        self.losses = {way: TokenMeans(1) for way in ("clean", *_WAYS)}
        self.passes = 0
        self.off = 0.0

    def add(self, row: int, steps: int, draws: int, seed: int) -> None:
        """Follow the changes of one text."""
        text = row_of(self.tokens, row)
        self.text = replace(text, ids=text.ids.clone(), mask=text.mask.clone())
        self.batch = Batch(self.text, [row], self.skip)
        with torch.no_grad():
            clean, loss = self._run(None)
            self.losses["clean"].add_texts((0,), _one(loss), self.batch)
            random = np.random.default_rng((seed, row))
            given = [self._at_length(_normal(random, clean[0]), clean[0]) for _ in range(draws)]
            self._count("random", clean, float(loss), given)
        change = given[0]
        for _ in range(steps):
            self.job.tick()
            change = self._ascended(change, clean[0])
        with torch.no_grad():
            self._count("worst", clean, float(loss), [change])

    def _run(self, change: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """States before the first block and after each one, and the loss, of one text."""
        first = Site("resid_pre", 0)
        sites = [first, *(Site("resid_post", layer) for layer in range(self.model.n_layers))]
        states: list[Tensor] = []
        changes = [] if change is None else [Change(first, "add", change)]
        forward(
            self.model,
            self.text,
            sites,
            lambda _, state: states.append(state[0].clone()),
            logits=None,
            changes=changes,
            gradients=True,
        )
        self.passes += 1
        self.job.tick()
        logits = self.model.unembed(states[-1][self.skip : -1]).float()
        wanted = self.text.ids[0, self.skip + 1 :].to(logits.device)
        return states, torch.nn.functional.cross_entropy(logits, wanted)

    def _at_length(self, direction: Tensor, state: Tensor) -> Tensor:
        """The direction of each token at the length that its change has."""
        size = direction.norm(dim=-1, keepdim=True)
        length = self.epsilon * state.norm(dim=-1, keepdim=True)
        found: Tensor = direction / size.where(size > 0, 1.0) * length
        return found

    def _ascended(self, change: Tensor, state: Tensor) -> Tensor:
        """The change after one step along the gradient of the loss, at its length again."""
        leaf = change.detach().clone().requires_grad_()
        _, loss = self._run(leaf)
        self.passes += 2  # the way back
        slope: Tensor = torch.autograd.grad(loss, leaf)[0]
        with torch.no_grad():
            # The last token, whose state no loss hears of, has no slope and stays.
            step = STEP * self._at_length(slope.float(), state.float())
            moved = self._at_length(change.float() + step, state.float())
        return moved.to(change.dtype)

    def _count(self, way: str, clean: list[Tensor], loss: float, changes: Sequence[Tensor]) -> None:
        """Add the growth of these changes, and what they do to the loss, as one text's numbers."""
        growth, losses = [], []
        for change in changes:
            states, other = self._run(change)
            moved = [self._relative(a, b) for a, b in zip(clean, states, strict=True)]
            sizes = (states[0] - clean[0]).norm(dim=-1) / clean[0].norm(dim=-1)
            self.off = max(self.off, float((sizes - self.epsilon).abs().max()) / self.epsilon)
            growth.append(moved[1:])
            losses.append(float(other) - loss)
        mean = torch.tensor(growth, dtype=torch.float64).mean(0, keepdim=True)
        self.growth[way].add_texts((slice(None),), mean, self.batch)  # type: ignore[arg-type]
        self.losses[way].add_texts((0,), _one(sum(losses) / len(losses)), self.batch)
        self.job.emit({}, {f"growth_{way}": self.growth[way].mean()})

    def _relative(self, clean: Tensor, other: Tensor) -> float:
        clean, other = clean[self.skip :].cpu().double(), other[self.skip :].cpu().double()
        return float((other - clean).norm() / clean.norm())

    def finish(self) -> None:
        """Hand over what needs all texts, and the check."""
        means = {way: self.growth[way].mean() for way in _WAYS}
        for way in _WAYS:
            low, high = self.growth[way].interval()
            self.job.emit({}, {f"growth_{way}_low": low, f"growth_{way}_high": high})
            self.job.emit({}, {f"loss_change_{way}": self.losses[way].mean()[0]})
        ratio = means["worst"] / means["random"]
        self.job.emit({}, {"ratio": ratio, "loss": self.losses["clean"].mean()[0]})
        self.job.note(passes=self.passes / len(self.tokens.ids), method="whole passes")
        what = "how far a change at the first block is from the length asked for, relative"
        self.job.check("length of the change", self.off, tolerance(self.model), what)


def _one(value: Tensor | float) -> Tensor:
    """A number of one text, ``[1]`` float64."""
    return torch.tensor([float(value)], dtype=torch.float64)


def _normal(random: np.random.Generator, like: Tensor) -> Tensor:
    drawn = torch.from_numpy(random.standard_normal(tuple(like.shape)))
    return drawn.to(like.device, like.dtype)
