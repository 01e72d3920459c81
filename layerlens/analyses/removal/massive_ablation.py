"""What the output loses when the massive entries of the stream are set to zero or to their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.removal.massive_cell import open_massive
from layerlens.analyses.removal.massive_text import DimensionMeans, Entries
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, require_tokens, tolerance
from layerlens.analyses.sweeps.output_changes import OUTPUT_CHANGES, output_changes
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW = ("layer",)
HOW = {
    "zero": "massive entries set to 0",
    "mean": "massive entries set to their mean",
    "random_zero": "as many random entries set to 0",
    "random_mean": "as many random entries set to their mean",
}
VARIABLES = output_changes(_ROW, HOW) | {
    "massive": Variable(_ROW, "float64", "1", "massive entries of a text"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    threshold: float,
    times_median: float,
    relative: bool,
    layers: Sequence[int] | None,
    draws: int,
    seed: int,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows and bytes of one call if every layer has massive entries."""
    wanted = model.layers(layers)
    after = sum(model.n_layers - 1 - layer for layer in wanted) / model.n_layers
    runs = 2 + 2 * draws
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (model.n_layers + 6) * widest * model.d_model * model.dtype.itemsize
    rows = (1 + runs * len(wanted)) * sum(tokens.lengths)
    return Work(2 + runs * after + verify, rows, states)


@analysis(
    name="massive_ablation",
    question="Does the model need its massive activations, and their exact size?",
    source="Sun, Chen, Kolter and Liu (2024), Massive Activations in Large Language Models, "
    "arXiv 2402.17762 (set to zero, set to mean)",
    cost="2 passes, and half a pass for each layer with massive entries and each of 8 runs",
    view="panels",
    lead="Each layer's massive entries are set to 0 or to their mean; what that costs more than "
    "as many random entries is owed to their being massive.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    pooled=True,
    opens=open_massive,
)
def massive_ablation(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    threshold: float = 100.0,
    times_median: float = 1000.0,
    relative: bool = False,
    layers: Sequence[int] | None = None,
    draws: int = 3,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Replace the massive entries of the stream after one layer and see what the output loses.

    An entry is massive where the metric ``massive_activations`` says so. After each layer in
    turn those of every text are set to 0, or to the mean of all massive entries of that layer
    and dimension, and the layers after it run on. The control: as many entries of the same text
    and layer, drawn from those that are not massive, set to 0, or to the mean of all entries of
    their dimension that are not massive.

    Parameters
    ----------
    threshold, times_median
        An entry is massive when its magnitude is above ``threshold`` and at least
        ``times_median`` times the median magnitude of its text and layer.
    relative
        Leave the first condition out, for models whose states are small.
    layers
        After which layers; None for all.
    draws
        How many times the random entries are drawn; their numbers are means over the draws.
    seed
        Of the draws.
    skip_first
    batch_size
    verify
        How many layers with massive entries of the first batch are run again as passes of the
        whole model.

    Notes
    -----
    ``loss_change`` is the change of the mean loss per token, ``kl`` that of the clean prediction
    from the one without them; means over the tokens of the texts that have massive entries after
    the layer, with intervals over texts. A layer after which no text has any is NaN. With a
    single text the mean mostly is the entry itself, and changes nothing: give several.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ["cat dog owl cat", "owl cat dog owl"]
    >>> found = ll.massive_ablation(model, texts, times_median=10, relative=True)
    >>> found.data.loss_change_zero.dims
    ('layer',)
    """
    if times_median <= 1:
        raise InputError(f"times_median is {times_median}; expected more than 1.")
    if whole(draws, "draws") < 1:
        raise InputError(f"draws is {draws}; expected 1 or more.")
    wanted = model.layers(layers)
    require_tokens(tokens, skip_first)
    rule = {"threshold": threshold, "times_median": times_median, "relative": relative}
    coords: dict[str, Any] = {"layer": (_ROW, np.array(wanted, dtype=np.int32))}
    job.declare({"layer": len(wanted)}, coords)
    _Ablation(job, model, tokens, wanted, rule, draws, seed).run(skip_first, batch_size, verify)


class _Ablation:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layers: list[int],
        rule: dict[str, Any],
        draws: int,
        seed: int,
    ) -> None:
        self.job, self.model, self.tokens, self.layers = job, model, tokens, layers
        self.rule, self.draws, self.seed = rule, draws, seed
        names = [f"{measure}_{how}" for measure in OUTPUT_CHANGES for how in HOW]
        self.means = {name: TokenMeans(len(layers)) for name in names}
        self.loss = TokenMeans(1)
        self.massive = np.zeros(len(layers))
        self.dimensions = DimensionMeans(len(layers), model.d_model)
        self.blocks = 0
        self.off: list[float] = []

    def run(self, skip_first: bool | int, batch_size: int | None, verify: int) -> None:
        """Find the means, then replace, for each batch."""
        how = (self.model, self.tokens, skip_first, batch_size, self.job.tick)
        total, done = len(split(self.tokens, batch_size)) * len(self.layers), 0
        for one in passes(*how):
            self.blocks += self.model.n_layers
            self._learn(one)
        self.job.emit({}, {"massive": self.massive / len(self.tokens.ids)})
        for one in passes(*how):
            self.blocks += self.model.n_layers
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            self.loss.add((0,), outputs.loss, one.batch)
            self.job.emit({}, {"loss": self.loss.mean()[0]})
            left = verify if one.batch.numbers[0] == 0 else 0
            for place, layer in enumerate(self.layers):
                entries = Entries(one.states[layer + 1], one.batch, self.rule)
                if entries.texts.any():
                    self._replace(one, outputs, place, entries, left > 0)
                    left -= 1
                done += 1
                self.job.progress(done, total, f"after layer {layer}")
        self._finish()

    def _learn(self, one: Pass) -> None:
        """Count the massive entries of a batch, and add to the means of each dimension."""
        for place, layer in enumerate(self.layers):
            state = one.states[layer + 1]
            entries = Entries(state, one.batch, self.rule)
            self.massive[place] += int(entries.texts.sum())
            self.dimensions.add(place, state, entries)

    def _replace(
        self, one: Pass, outputs: Outputs, place: int, entries: Entries, verified: bool
    ) -> None:
        """Every way of replacing after one layer, for the texts that have massive entries."""
        layer = self.layers[place]
        state = one.states[layer + 1]
        draws = [entries.drawn(layer, draw, self.seed) for draw in range(self.draws)]
        masks = {"massive": [entries.massive], "others": draws}
        having = entries.texts[one.batch.kept.text] > 0
        for how in HOW:
            which = "others" if how.startswith("random") else "massive"
            new: Tensor | float = 0.0
            if how.endswith("mean"):
                new = self.dimensions.of(which, place, state)
            changed = [torch.where(mask, new, state) for mask in masks[which]]
            found = [self._measure(one, outputs, layer, each) for each in changed]
            for name, values in zip(OUTPUT_CHANGES, zip(*found, strict=True), strict=True):
                mean = torch.stack(values).mean(0).masked_fill(~having, torch.nan)
                means = self.means[f"{name}_{how}"]
                means.add((place,), mean, one.batch)
                self.job.emit({"layer": place}, {f"{name}_{how}": means.mean()[place]})
            if verified and how == "zero":
                self._verify(one, outputs, layer, changed[0], found[0][0])

    def _measure(
        self, one: Pass, outputs: Outputs, layer: int, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """KL divergence, and change of the loss, of a batch that goes on from another state."""
        later = range(layer + 1, self.model.n_layers)
        self.blocks += len(later)
        distance, loss = outputs.compare(one.taken(one.run(state, later)), kl)
        return distance, loss - outputs.loss

    def _verify(
        self, one: Pass, outputs: Outputs, layer: int, state: Tensor, found: Tensor
    ) -> None:
        """The same by a pass of the whole model whose state after the layer is set."""
        last, site = Site("resid_post", self.model.n_layers - 1), Site("resid_post", layer)
        final: list[Tensor] = []
        forward(
            self.model,
            one.batch.tokens,
            [last],
            lambda _, value: final.append(value.clone()),
            logits=None,
            changes=[Change(site, "set", own, row=row) for row, own in enumerate(state)],
        )
        self.blocks += self.model.n_layers
        other, _ = outputs.compare(one.taken(final[0]), kl)
        self.off.append(float((other - found).abs().max()))

    def _finish(self) -> None:
        for name, means in self.means.items():
            low, high = means.interval()
            found = {name: means.mean(), f"{name}_low": low, f"{name}_high": high}
            self.job.emit({}, found)
        if not self.massive.any():
            self.job.remark("No entry is massive by this rule: there is nothing to replace.")
        elif self.dimensions.alone():
            self.job.remark(
                "Each massive entry is the only one of its layer and dimension, so its mean is "
                "itself: give several texts."
            )
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state after the layer, with some of its entries replaced",
        )
        if self.off:
            what = "KL against passes of the whole model with the same entries replaced"
            self.job.check("naive agreement", max(self.off), tolerance(self.model), what)
