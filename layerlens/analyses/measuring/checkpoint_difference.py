"""Where two checkpoints of one architecture differ: layer by layer, weight by weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.model.block_weights import (
    of_block,
    outside_blocks,
    require_alike,
    short_names,
)
from layerlens.model.differences import Difference, difference
from layerlens.model.required import require_model

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_CELL = ("weight", "layer")
_WORDS = {
    "relative": ("norm of the difference over that of the weight (Frobenius)", "1"),
    "norm": ("Frobenius norm of the difference", "1"),
    "mean_abs": ("mean absolute difference of an entry", "1"),
    "spectral": ("largest singular value of the difference", "1"),
    "stable_rank": ("stable rank of the difference", "1"),
    "effective_rank": ("effective rank of the difference", "1"),
    "rank": ("singular values of the difference above rounding", "1"),
    "cosine": ("cosine of the two versions", "1"),
}
VARIABLES = {
    **{name: Variable(_CELL, "float64", unit, words) for name, (words, unit) in _WORDS.items()},
    "layer_relative": Variable(
        ("layer",), "float64", "1", "norm of the difference of all weights over theirs"
    ),
    "layer_cosine": Variable(("layer",), "float64", "1", "cosine of all weights of the layer"),
    "outside_relative": Variable(
        ("outside",), "float64", "1", "norm of the difference over that of the weight"
    ),
    "outside_cosine": Variable(("outside",), "float64", "1", "cosine of the two versions"),
}


def count_work(model: LensModel, *, other: LensModel | None, spectrum: bool) -> Work:
    """Count operations on the weights of one call, and bytes; runs nothing."""
    weights = [
        weight for layer in range(model.n_layers) for weight in of_block(model, layer).values()
    ]
    everything = [*weights, *outside_blocks(model).values()]
    # Norms and products read each weight a few times.
    operations = 12.0 * sum(weight.numel() for weight in everything)
    if spectrum:
        # Of each matrix the Gram matrix and its eigenvalues, in float64 at half the speed.
        shapes = [weight.flatten(0, -2).shape for weight in weights if weight.dim() > 1]
        operations += sum(2 * (2 * m * n * min(m, n) + 9 * min(m, n) ** 3) for m, n in shapes)
    largest = max(weight.numel() for weight in everything)
    return Work(0, 0, 4 * 8 * largest, operations=operations)


@analysis(
    name="checkpoint_difference",
    question="In which layers and weights do two checkpoints differ?",
    source="Frobenius norms and cosines of weights; effective rank: Roy and Vetterli (2007), The "
    "Effective Rank",
    cost="no pass, weights only",
    view="grid",
    lead="A cell is one weight of one layer: the larger its number, the more training has "
    "changed it.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("other",),
)
def checkpoint_difference(
    job: Job,
    model: LensModel,
    *,
    other: LensModel | None = None,
    spectrum: bool = True,
) -> None:
    """Compare the weights of two checkpoints: what fine-tuning, or more training, has changed.

    For each weight ``A`` of a block of this model and ``B`` of the other's, ``D = B - A``. The
    axis ``weight`` holds short names of a block's weights (``q_proj``, ``weight_path`` in full);
    ``weight_kind`` says which are matrices and which vectors (norms, biases), of which ranks have
    no meaning.

    Parameters
    ----------
    other
        The other checkpoint: as many blocks, the same names and shapes of weights.
    spectrum
        Also what needs singular values, which takes most of the time.

    Notes
    -----
    ``effective_rank`` is the exponential of the entropy of ``s / sum(s)``, ``stable_rank`` is
    ``sum(s^2) / max(s)^2``, ``rank`` counts singular values above what rounding of the weights
    can explain. Weights outside the blocks have variables of their own; an embedding with more
    rows is compared in the rows that both have. ``noise_floor`` is the relative difference that
    rounding to the dtype may cause: below it nothing can be said.

    Raises
    ------
    InputError
        The other model does not fit, or weights are quantised or not in memory.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> same = ll.checkpoint_difference(model, model)
    >>> float(same.data.layer_relative.max())
    0.0
    """
    require_model(other, "other")
    assert other is not None
    require_alike(model, other)
    mine = [of_block(model, layer) for layer in range(model.n_layers)]
    theirs = [of_block(other, layer) for layer in range(other.n_layers)]
    _Comparison(job, model, other, mine, theirs).run(spectrum)


class _Comparison:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        other: LensModel,
        mine: list[dict[str, Tensor]],
        theirs: list[dict[str, Tensor]],
    ) -> None:
        self.job, self.model, self.other = job, model, other
        self.mine, self.theirs = mine, theirs
        self.names = list(dict.fromkeys(name for weights in mine for name in weights))
        self.theirs_outside = outside_blocks(other)
        self.outside = {
            name: _common(weight, self.theirs_outside[name])
            for name, weight in outside_blocks(model).items()
            if name in self.theirs_outside and weight.dim() == self.theirs_outside[name].dim()
        }
        self.floor = 0.0
        self.law = 0.0

    def run(self, spectrum: bool) -> None:
        """Every weight of every block, then those outside."""
        self._declare(spectrum)
        for layer in range(self.model.n_layers):
            self._layer(layer, spectrum)
            self.job.progress(layer + 1, self.model.n_layers, f"layer {layer}")
        for place, (name, (a, b)) in enumerate(self.outside.items()):
            self.job.tick()
            found = difference(a, b, spectrum=False)
            numbers = {"outside_relative": found.relative, "outside_cosine": found.cosine}
            self.job.emit({"outside": place}, {k: np.array(v) for k, v in numbers.items()})
            if a.shape != self.theirs_outside[name].shape:
                self.job.remark(f"Of {name} only the rows that both models have were compared.")
        for name in sorted(outside_blocks(self.model).keys() ^ self.theirs_outside.keys()):
            self.job.remark(f"{name} is in one of the models only, or tied in one, and left out.")
        self.job.note(
            passes=0, other=self.other.name, noise_floor=self.floor, method="weights only"
        )
        what = "largest |B|^2 - (|A|^2 + |D|^2 + 2 A.D) of a layer, relative"
        self.job.check("law of cosines", self.law, 1e-9, what)

    def _declare(self, spectrum: bool) -> None:
        layers = np.arange(self.model.n_layers, dtype=np.int32)
        kinds = [self._kind(name) for name in self.names]
        sizes = {"weight": len(self.names), "layer": len(layers), "outside": len(self.outside)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "weight": (("weight",), np.array(short_names(self.names))),
            "weight_path": (("weight",), np.array(self.names)),
            "weight_kind": (("weight",), np.array(kinds)),
            "layer": (("layer",), layers),
            "outside": (("outside",), np.array(list(self.outside))),
        }
        singular = ("spectral", "stable_rank", "effective_rank", "rank")
        wanted = [name for name in VARIABLES if spectrum or name not in singular]
        self.job.declare(sizes, coords, only=wanted)

    def _kind(self, name: str) -> str:
        some = next(weights[name] for weights in self.mine if name in weights)
        return "matrix" if some.dim() > 1 else "vector"

    def _layer(self, layer: int, spectrum: bool) -> None:
        mine, theirs = self.mine[layer], self.theirs[layer]
        totals = np.zeros(4)
        for place, name in enumerate(self.names):
            self.job.tick()
            where = {"weight": place, "layer": layer}
            found: dict[str, float] = dict.fromkeys(_WORDS, float("nan"))
            if name in mine:
                one = difference(mine[name], theirs[name], spectrum=spectrum)
                found = {key: getattr(one, key) for key in _WORDS}
                self.floor = max(self.floor, one.floor)
                totals += _squares(mine[name], theirs[name], one)
            known = self.job.parts.variables if self.job.parts else {}
            self.job.emit(where, {k: np.array(v) for k, v in found.items() if k in known})
        size, other, off, product = totals
        relative = (off / size) ** 0.5 if size else np.nan
        cosine = product / (size * other) ** 0.5 if size and other else np.nan
        if off == 0:
            cosine = 1.0
        arrays = {"layer_relative": np.array(relative), "layer_cosine": np.array(cosine)}
        self.job.emit({"layer": layer}, arrays)
        law = abs(other - (size + off + 2 * (product - size)))
        self.law = max(self.law, law / max(size, other, 1e-300))


def _squares(a: Tensor, b: Tensor, found: Difference) -> np.ndarray:
    """Sums that make up a layer's numbers: |A|^2, |B|^2, |D|^2 and A.B."""
    x, y = a.detach().cpu().double(), b.detach().cpu().double()
    return np.array([x.square().sum(), y.square().sum(), found.norm**2, (x * y).sum()])


def _common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The part of two weights that both have."""
    part = tuple(slice(0, min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    return a[part], b[part]
