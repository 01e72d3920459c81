"""What the output loses when one layer computes its products with few channels (R-Sparse)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.depth.weight_cells import open_sparse
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, require_tokens, tolerance
from layerlens.analyses.sweeps.output_changes import OUTPUT_CHANGES, output_changes
from layerlens.errors import InputError
from layerlens.metrics.batch import split as split_texts
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.model.matrices import matrices
from layerlens.run.sparse import WAYS, Budget, Factors, layer_factors, share_of, sparse

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "sparsity?")
_WORDS = {
    "sparse": "channels and low rank",
    "channels": "largest channels only",
    "random": "random channels and low rank",
}
VARIABLES = output_changes(_CELL, _WORDS) | {
    "computed": Variable(_CELL, "float64", "1", "share of the multiplications that is left"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    sparsity: float | Sequence[float],
    split: float,
    layers: Sequence[int] | None,
    seed: int,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted, times = model.layers(layers), len(_sparsities(sparsity))
    later = sum(model.n_layers - layer for layer in wanted) / model.n_layers
    shapes = [m.parameter.shape for layer in wanted for m in matrices(model, layer)]
    widest = max(part.ids.numel() for part, _ in split_texts(tokens, batch_size))
    states = (model.n_layers + 4) * widest * model.d_model * model.dtype.itemsize
    weights = 3 * 4 * sum(shape.numel() for shape in shapes) // len(wanted)
    rows = len(wanted) * (1 + len(WAYS) * times) * sum(tokens.lengths)
    # Singular vectors of a matrix take about 20 times the operations of its square.
    factors = sum(20.0 * shape.numel() * min(shape) for shape in shapes)
    made = len(wanted) + len(WAYS) * times * later + 2 * verify
    return Work(made, rows, states + weights, operations=factors)


@analysis(
    name="sparse_layers",
    question="Which layers can compute with few channels, and how much does a low rank make good?",
    source="Zhang et al. (2025), R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM "
    "Inference, arXiv 2504.19449",
    cost="1 pass and the singular vectors of its weights for each layer, and one and a half more "
    "for each sparsity",
    view="panels",
    lead="What the output loses when one layer's products are made with few channels and a low "
    "rank; beside it what the same effort buys with channels alone, and with random channels.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    pooled=True,
    opens=open_sparse,
)
def sparse_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    sparsity: float | Sequence[float] = 0.5,
    split: float = 0.5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Let one layer's linear products use few input channels and see what the output loses.

    Of each token's input ``x`` to a weight ``W = U S V``, the channels ``i`` with the largest
    ``|x_i| * s_i`` are multiplied with ``W``, where ``s_i`` is the norm of channel ``i`` in the
    first ``r`` rows of ``S V``; all other channels go through the nearest matrix of rank ``r``.

    Parameters
    ----------
    sparsity
        Share of the multiplications to be saved, from 0 and below 1, or several, which then are
        an axis.
    split
        Share of what is left that is spent on channels, 0 to 1; the rest buys the rank.
    layers
        Which layers; None for all.
    seed
        Of the random channels.
    skip_first
    batch_size
    verify
        How many layers of the first batch are run again as a pass of the whole model.

    Notes
    -----
    ``_channels``: the same effort spent on the channels with the largest ``|x_i|`` alone.
    ``_random``: as many channels as the first, but drawn at random, and the same rank.
    ``computed`` is what is left of the multiplications, never more than ``1 - sparsity``. Here
    so many channels of each token are kept; published are a threshold from one text, a ``split``
    for each layer from an evolutionary search, and half of the prompt left dense. No time is
    saved here. Means over tokens, with intervals over texts.

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
    >>> found = ll.sparse_layers(model, "cat dog owl cat", sparsity=[0.25, 0.5])
    >>> found.data.kl_sparse.dims
    ('layer', 'sparsity')
    """
    shares = _sparsities(sparsity)
    if not 0 <= split <= 1:
        raise InputError(f"split is {split}; expected a share from 0 to 1.")
    whole(seed, "seed")
    wanted = model.layers(layers)
    for layer in wanted:
        require_products(model, layer)
    require_tokens(tokens, skip_first)
    axis = not isinstance(sparsity, int | float)
    sizes = {"layer": len(wanted)}
    coords: dict[str, Any] = {"layer": (("layer",), np.array(wanted, dtype=np.int32))}
    if axis:
        sizes["sparsity"] = len(shares)
        coords["sparsity"] = (("sparsity",), np.array(shares))
    job.declare(sizes, coords)
    work = _Sparse(job, model, tokens, wanted, shares, axis, split, seed)
    work.run(skip_first, batch_size, verify)


def _sparsities(sparsity: float | Sequence[float]) -> list[float]:
    given = [sparsity] if isinstance(sparsity, int | float) else list(sparsity)
    if not given or not all(0 <= share < 1 for share in given) or len(set(given)) < len(given):
        raise InputError(
            f"sparsity is {sparsity!r}; expected a share from 0 and below 1, or several, each once."
        )
    return [float(share) for share in given]


def require_products(model: LensModel, layer: int) -> None:
    """Raise InputError where a layer's products cannot each be watched by themselves."""
    found = matrices(model, layer)
    if not found:
        raise InputError(f"Layer {layer} of {model.name} has no weight matrix: leave it out.")
    for matrix in found:
        if matrix.layer is not None:
            raise InputError(
                f"{matrix.name} of layer {layer} has an adapter, so it is no one product: merge "
                "the adapter into the model first."
            )
        if matrix.stacked:
            raise InputError(
                f"{matrix.name} of layer {layer} holds the weights of several experts, whose "
                "products cannot be changed one by one: leave the layer out."
            )


class _Sparse:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layers: list[int],
        shares: list[float],
        axis: bool,
        split: float,
        seed: int,
    ) -> None:
        self.job, self.model, self.tokens, self.layers = job, model, tokens, layers
        self.shares, self.axis, self.split, self.seed = shares, axis, split, seed
        shape = (len(layers), len(shares))
        names = [f"{measure}_{way}" for measure in OUTPUT_CHANGES for way in WAYS]
        self.means = {name: TokenMeans(*shape) for name in names}
        self.loss = TokenMeans(1)
        self.blocks = self.done = 0
        self.off = self.over = 0.0

    def run(self, skip_first: bool | int, batch_size: int | None, verify: int) -> None:
        """Layer by layer, so that singular vectors are found once and one layer's are held."""
        for place, layer in enumerate(self.layers):
            factors = self._factors(place, layer)
            how = (self.model, self.tokens, skip_first, batch_size, self.job.tick)
            for one in passes(*how):
                self.blocks += self.model.n_layers
                outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
                if not place:
                    self.loss.add((0,), outputs.loss, one.batch)
                    self.job.emit({}, {"loss": self.loss.mean()[0]})
                verified = one.batch.numbers[0] == 0 and place < verify
                for column in range(len(self.shares)):
                    for way in WAYS:
                        again = verified and way == "sparse"
                        self._measure(one, outputs, (place, column), factors, way, again)
            self.job.progress(place + 1, len(self.layers), f"layer {layer}")
        self._finish(verify)

    def _factors(self, place: int, layer: int) -> list[Factors]:
        """Singular vectors of the layer's weights, and what each sparsity leaves of its work."""
        found = layer_factors(self.model, layer, self.job.tick)
        size = sum(one.weight.numel() for one in found)
        for column, share in enumerate(self.shares):
            left = {}
            for way in WAYS:
                own = share_of(way, self.split)
                spent = (
                    one.weight.numel() * Budget.of(one.weight, share, own).share for one in found
                )
                left[way] = sum(spent) / size
                self.over = max(self.over, left[way] - (1 - share))
            self.job.emit(self._where((place, column)), {"computed": np.array(left["sparse"])})
        return found

    def _where(self, cell: tuple[int, int]) -> dict[str, int]:
        return {"layer": cell[0], **({"sparsity": cell[1]} if self.axis else {})}

    def _measure(
        self,
        one: Pass,
        outputs: Outputs,
        cell: tuple[int, int],
        factors: list[Factors],
        way: str,
        verified: bool,
    ) -> None:
        """Run a batch on from one layer that computes with less."""
        layer = self.layers[cell[0]]
        later = range(layer + 1, self.model.n_layers)
        with sparse(factors, way, self.shares[cell[1]], self.split, self.seed):
            state = one.run(one.states[layer], [layer])
            passed = one.without() if verified else None
        state = one.run(state, later)
        self.blocks += len(later) + 1 + self.model.n_layers * verified
        distance, loss = outputs.compare(one.taken(state), kl)
        for name, values in (("kl", distance), ("loss_change", loss - outputs.loss)):
            means = self.means[f"{name}_{way}"]
            means.add(cell, values, one.batch)
            self.job.emit(self._where(cell), {f"{name}_{way}": means.mean()[cell]})
        if passed is not None:
            other, _ = outputs.compare(one.taken(passed), kl)
            self.off = max(self.off, float((other - distance).abs().max()))

    def _finish(self, verify: int) -> None:
        for name, means in self.means.items():
            for end, values in zip(("_low", "_high"), means.interval(), strict=True):
                self.job.emit({}, {name + end: values if self.axis else values[:, 0]})
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the layer; the largest channels of each token",
        )
        what = "share of the multiplications beyond what sparsity leaves"
        self.job.check("within the budget", max(0.0, self.over), 1e-6, what)
        if verify:
            what = "KL against passes of the whole model with the layer sparse"
            self.job.check("naive agreement", self.off, tolerance(self.model), what)
