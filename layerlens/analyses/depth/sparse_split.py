"""How each layer should divide few multiplications between channels and a low rank (R-Sparse)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.sparse_layers import require_products
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, require_tokens, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import Batch
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.model.matrices import matrices
from layerlens.run.sparse import Factors, layer_factors, sparse

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

CHOICES = ("searched", "one for all", "random")
"""A split for each layer; the one that is best for all alike; drawn for each layer."""

_KL = "KL divergence of the prediction"
VARIABLES = {
    "kl": Variable(("layer", "split"), "float64", "nats", f"{_KL}, one layer with few channels"),
    "best_split": Variable(("layer",), "float64", "1", "split with the least KL of the layer"),
    "searched": Variable(("choice",), "float64", "nats", f"{_KL}, all layers, texts of the search"),
    **with_interval(
        "held_out", Variable(("choice",), "float64", "nats", f"{_KL}, all layers, held-out texts")
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    sparsity: float,
    splits: Sequence[float],
    layers: Sequence[int] | None,
    held_out: float,
    seed: int,
    skip_first: bool | int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted, times = model.layers(layers), len(_splits(splits))
    later = sum(model.n_layers - layer for layer in wanted) / model.n_layers
    shapes = [m.parameter.shape for layer in wanted for m in matrices(model, layer)]
    length = sum(tokens.lengths)
    states = (model.n_layers + 1) * length * model.d_model * model.dtype.itemsize
    weights = 3 * 4 * sum(shape.numel() for shape in shapes)
    factors = sum(20.0 * shape.numel() * min(shape) for shape in shapes)
    rows = (1 + len(wanted) * times + times + 4) * length
    made = 1 + times * later + times + 4
    return Work(made, rows, states + weights + 4 * length * model.d_vocab, operations=factors)


@analysis(
    name="sparse_split",
    question="Should a layer with few multiplications spend them on channels or on a low rank?",
    source="Zhang et al. (2025), R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM "
    "Inference, arXiv 2504.19449 (a split for each layer; found here by trying a few)",
    cost="1 pass and the singular vectors of the weights, and half a pass for each layer and split",
    view="panels",
    lead="What the output loses with each layer's multiplications divided in several ways; the "
    "search is worth how far its splits stand below one for all, on texts it has not seen.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    pooled=True,
)
def sparse_split(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    sparsity: float = 0.5,
    splits: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    layers: Sequence[int] | None = None,
    held_out: float = 0.3,
    seed: int = 0,
    skip_first: bool | int = True,
) -> None:
    """Try several splits of each layer's work between channels and rank, and use the best of each.

    The products are those of ``ll.sparse_layers``. Each layer alone is measured with each split;
    then all layers are made sparse together, each with its best split, all with the one split
    that is best for them together, and each with a split drawn at random.

    Parameters
    ----------
    sparsity
        Share of the multiplications to be saved, from 0 and below 1.
    splits
        Shares of what is left that are spent on channels, 0 to 1; the rest buys the rank.
    layers
        Which layers; None for all.
    held_out
        Share of the texts (or of their groups) that the search does not see.
    seed
        Of the texts that are set apart and the random splits.
    skip_first

    Notes
    -----
    ``kl`` and ``searched`` are means over the tokens of the texts that the search saw;
    ``held_out`` of the others, with intervals over texts; one text alone leaves none: NaN. Each
    layer is searched by itself, which costs least; published is an evolutionary search of all
    together. The singular vectors of all layers are held, about three times their weights.

    Raises
    ------
    InputError
        An option does not fit, no token counts, or a layer has weights that are quantised, not
        in memory, adapted, or stacked for several experts.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.sparse_split(model, "cat dog owl cat", splits=[0.0, 0.5])
    >>> found.data.kl.dims
    ('layer', 'split')
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity is {sparsity}; expected a share from 0 and below 1.")
    given = _splits(splits)
    whole(seed, "seed")
    wanted = model.layers(layers)
    for layer in wanted:
        require_products(model, layer)
    require_tokens(tokens, skip_first)
    every = range(len(tokens.ids))
    apart = job.split(seed, held_out) if len(every) > 1 else None
    coords: dict[str, Any] = {
        "layer": (("layer",), np.array(wanted, dtype=np.int32)),
        "split": (("split",), np.array(given)),
        "choice": (("choice",), np.array(CHOICES)),
    }
    job.declare({"layer": len(wanted), "split": len(given), "choice": len(CHOICES)}, coords)
    search = _Search(job, model, wanted, given, float(sparsity))
    kept = search.passed(tokens, apart.train if apart else every, int(skip_first))
    best = search.each_layer(kept)
    held = search.passed(tokens, apart.test if apart else (), int(skip_first))
    search.together(kept, held, best, seed)


def _splits(splits: Sequence[float]) -> list[float]:
    found = list(splits)
    if not found or not all(0 <= one <= 1 for one in found) or len(set(found)) < len(found):
        raise InputError(f"splits is {splits!r}; expected shares from 0 to 1, each once.")
    return [float(one) for one in found]


Passed = tuple[Pass, Outputs]


class _Search:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        layers: list[int],
        splits: list[float],
        sparsity: float,
    ) -> None:
        self.job, self.model, self.layers = job, model, layers
        self.splits, self.sparsity = splits, sparsity
        self.factors: dict[int, list[Factors]] = {}
        self.blocks = self.texts = 0

    def passed(self, tokens: Tokens, rows: Sequence[int], skip: int) -> list[Passed]:
        """The clean pass of each text with tokens that count, whose states are kept."""
        found = []
        for row in rows:
            batch = Batch(row_of(tokens, row), [row], skip)
            if len(batch.kept):
                one = Pass(self.model, batch, self.job.tick)
                found.append((one, Outputs(self.model, batch, one.taken(one.states[-1]))))
        self.blocks += self.model.n_layers * len(found)
        self.texts += len(found)
        return found

    def each_layer(self, kept: list[Passed]) -> list[float]:
        """Measure every layer with every split; the best of each."""
        best = []
        for place, layer in enumerate(self.layers):
            self.factors[layer] = layer_factors(self.model, layer, self.job.tick)
            found = []
            for column, split in enumerate(self.splits):
                means = self._measure(kept, {layer: split})
                found.append(float(means.mean()[0]))
                self.job.emit({"layer": place, "split": column}, {"kl": np.array(found[-1])})
            best.append(self.splits[int(np.argmin(found))])
            self.job.emit({"layer": place}, {"best_split": np.array(best[-1])})
            self.job.progress(place + 1, len(self.layers) + 1, f"layer {layer}")
        return best

    def _measure(self, kept: list[Passed], splits: dict[int, float]) -> TokenMeans:
        """The KL divergence with these layers sparse, each with its split."""
        means, first = TokenMeans(1), min(splits)
        for one, outputs in kept:
            with ExitStack() as stack:
                for layer, split in splits.items():
                    how = (self.factors[layer], "sparse", self.sparsity, split, 0)
                    stack.enter_context(sparse(*how))
                state = one.run(one.states[first], range(first, self.model.n_layers))
            self.blocks += self.model.n_layers - first
            distance, _ = outputs.compare(one.taken(state), kl)
            means.add((0,), distance, one.batch)
        return means

    def together(
        self, kept: list[Passed], held: list[Passed], best: list[float], seed: int
    ) -> None:
        """All layers sparse at once: as searched, alike, and drawn."""
        alike = [self._all(kept, [split] * len(self.layers)) for split in self.splits]
        one = self.splits[int(np.argmin([float(means.mean()[0]) for means in alike]))]
        drawn = np.random.default_rng(seed).choice(self.splits, len(self.layers)).tolist()
        chosen = (best, [one] * len(best), drawn)
        for place, splits in enumerate(chosen):
            searched = self._all(kept, splits).mean()[0]
            numbers = [np.nan] * 3
            if held:
                means = self._all(held, splits)
                low, high = means.interval()
                numbers = [means.mean()[0], low[0], high[0]]
            arrays = dict(zip(("held_out", "held_out_low", "held_out_high"), numbers, strict=True))
            found = {"searched": searched, **arrays}
            self.job.emit({"choice": place}, {name: np.array(v) for name, v in found.items()})
        if not held:
            self.job.remark("One text leaves none to hold out: give several.")
        self._finish(kept, best, one)

    def _all(self, kept: list[Passed], splits: list[float]) -> TokenMeans:
        return self._measure(kept, dict(zip(self.layers, splits, strict=True)))

    def _finish(self, kept: list[Passed], best: list[float], one: float) -> None:
        self.job.note(
            one_for_all=one,
            passes=self.blocks / self.model.n_layers / self.texts,
            method="each layer by itself, each split in turn; runs begin at the first sparse layer",
        )
        (passed, outputs), total = kept[0], TokenMeans(1)
        how = (self.factors[self.layers[0]], "sparse", self.sparsity, best[0], 0)
        with sparse(*how):
            state = passed.without()
        distance, _ = outputs.compare(passed.taken(state), kl)
        total.add((0,), distance, passed.batch)
        mine = self._measure(kept[:1], {self.layers[0]: best[0]}).mean()[0]
        what = "KL of the first layer, sparse, against a pass of the whole model"
        self.job.check(
            "naive agreement", abs(float(total.mean()[0] - mine)), tolerance(self.model), what
        )
