"""How many neurons of an MLP are active: at a token, and ever.

A neuron's activation is what the MLP's last projection is given: after the activation function
and, in gated MLPs, times the other branch. With ReLU most are exactly zero; GELU and SiLU are
hardly ever zero, so a neuron counts as off where it is small beside the token's largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import GROUPS, accumulate
from layerlens.metrics.fewest import fewest
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import Mean, TokenMean, bootstrap, ratio
from layerlens.metrics.registry import register

LAZY = "Li et al. (2022), The Lazy Neuron Phenomenon, arXiv 2210.06313"


def require_epsilon(epsilon: float) -> None:
    """Raise InputError where it is no share of the largest activation."""
    if not 0 <= epsilon < 1:
        raise InputError(f"epsilon is {epsilon}; expected a share from 0 to below 1.")


_ON: WeakKeyDictionary[Layer, dict[float, Tensor]] = WeakKeyDictionary()


def is_on(layer: Layer, epsilon: float) -> Tensor:
    """Ones where ``|a| > epsilon * max_j |a_j|`` of the token, else zeros: [n, neuron] float.

    With ``epsilon`` 0 that is where ``a`` is not zero. Ones add up exactly up to 2**24 of them,
    and many times as fast as bools. Shared by all metrics of a layer.
    """
    known = _ON.setdefault(layer, {})
    if epsilon not in known:
        size = layer.rows("mlp_post").abs()
        limit = epsilon * size.amax(-1, keepdim=True)
        known[epsilon] = torch.gt(size, limit, out=size)
    return known[epsilon]


@register
class ActivationSparsity(Mean):
    """Share of an MLP's neurons that are off at a token.

    Parameters
    ----------
    epsilon
        A neuron is small at a token up to this share of the token's largest one.
    """

    name = "activation_sparsity"
    question = "How many neurons of each MLP are off at a token?"
    formula = (
        "share of entries that are exactly 0, mean over tokens; small: |a| <= epsilon * max |a|; "
        "hoyer: (sqrt(n) - |a|_1 / |a|_2) / (sqrt(n) - 1), 0 for equal entries, 1 for a single one"
    )
    units = "1"
    axes = ("layer",)
    source = f"{LAZY}; Hoyer (2004), Non-negative Matrix Factorization with Sparseness Constraints"
    parts = ("mlp_post",)
    outputs: ClassVar[Mapping[str, Output]] = {
        "activation_sparsity": Output(axes, units, "share of neurons that are exactly zero"),
        "activation_sparsity_small": Output(axes, units, "share of neurons that are small"),
        "activation_sparsity_hoyer": Output(axes, units, "Hoyer's sparseness"),
    }

    def __init__(self, shape: ModelShape, *, epsilon: float = 0.01) -> None:
        require_epsilon(epsilon)
        super().__init__(shape, epsilon=epsilon)
        for name in ("small", "hoyer", "hoyer_count"):
            self.zeros(name, GROUPS, shape.n_layers)

    def update(self, layer: Layer) -> None:
        """Count the zeros, the small ones and Hoyer's sparseness of each token."""
        if not layer.has(*self.parts):
            return
        activation, batch = layer.rows("mlp_post"), layer.batch
        cell, n = (layer.number,), activation.shape[-1]
        self.add(cell, 1 - is_on(layer, 0.0).sum(-1).double() / n, batch)
        on = is_on(layer, self.options["epsilon"]).sum(-1).double()
        accumulate(self.arrays["small"], batch.groups, cell, batch.kept.by_text(1 - on / n))
        length, total = (torch.linalg.vector_norm(activation, p, dim=-1).double() for p in (2, 1))
        some = length > 0
        hoyer = (n**0.5 - total / length) / (n**0.5 - 1)
        hoyer = torch.where(some, hoyer, 0.0)
        accumulate(self.arrays["hoyer"], batch.groups, cell, batch.kept.by_text(hoyer))
        counted = batch.kept.by_text(some.double())
        accumulate(self.arrays["hoyer_count"], batch.groups, cell, counted)

    def value(self, intervals: bool = True) -> Arrays:
        """The three means."""
        found = super().value(intervals)
        for end, count in (("small", "count"), ("hoyer", "hoyer_count")):
            name = f"{self.name}_{end}"
            sums = {"sum": self.arrays[end], "count": self.arrays[count]}
            found[name] = ratio({key: array.sum(0) for key, array in sums.items()})
            if intervals:
                found[f"{name}_low"], found[f"{name}_high"] = bootstrap(ratio, sums)
        return found


@register
class ActivationConcentration(TokenMean):
    """The smallest share of neurons that holds most of an MLP's activation.

    Parameters
    ----------
    share
        Of the sum of squares.
    """

    name = "activation_concentration"
    question = "How few neurons hold 90 % of what an MLP computes at a token?"
    formula = "mean over tokens of min |S| / n with sum_S a^2 >= share * sum a^2"
    units = "1"
    source = LAZY
    cost = "1 pass for all metrics, and a sort of the neurons"
    parts = ("mlp_post",)
    long_name = "share of neurons that holds 90 % of the squares"

    def __init__(self, shape: ModelShape, *, share: float = 0.9) -> None:
        if not 0 < share < 1:
            raise InputError(f"share is {share}; expected a number between 0 and 1.")
        super().__init__(shape, share=share)

    def measure(self, layer: Layer) -> Tensor:
        """The share of each token's neurons, NaN where all are zero."""
        squares = layer.rows("mlp_post").square()
        # Rounding must not ask for one more where the share is met exactly.
        number, total = fewest(squares, self.options["share"] * (1 - 1e-12))
        return torch.where(total > 0, number / squares.shape[-1], torch.nan)


@register
class NeuronFiring(LayerMetric):
    """How often each neuron is on: the dead, those that always are, and all between.

    Parameters
    ----------
    epsilon
        A neuron is on at a token when its magnitude is above this share of the token's largest
        one; 0: when it is not exactly zero, the rule for ReLU.
    k
        How many neurons to name that are on least and most often.
    """

    name = "neuron_firing"
    question = "How often are neurons on, and which never or always?"
    formula = (
        "share of tokens with |a| > epsilon * max |a|, mean over neurons; dead: never; always: at "
        "every token; zero: exactly 0 at every token; bound: 3 / tokens, below which the rate of a "
        "dead one lies with 95 % confidence"
    )
    units = "1"
    axes = ("layer",)
    source = f"{LAZY}; bound: Hanley and Lippman-Hand (1983), If Nothing Goes Wrong"
    parts = ("mlp_post",)
    outputs: ClassVar[Mapping[str, Output]] = {
        "neuron_firing": Output(axes, units, "share of tokens a neuron is on at", interval=False),
        "neuron_firing_dead": Output(axes, units, "share of neurons never on", interval=False),
        "neuron_firing_always": Output(axes, units, "share of neurons always on", interval=False),
        "neuron_firing_zero": Output(
            axes, units, "share of neurons that are zero at every token", interval=False
        ),
        "neuron_firing_bound": Output(
            axes, units, "upper bound of the rate of a dead neuron", interval=False
        ),
        "neuron_firing_histogram": Output(
            ("layer", "neuron_firing_rate"), units, "share of neurons by rate", interval=False
        ),
        "neuron_firing_least": Output(
            ("layer", "neuron_firing_rank"), units, "neurons on least", "int32", interval=False
        ),
        "neuron_firing_most": Output(
            ("layer", "neuron_firing_rank"), units, "neurons on most", "int32", interval=False
        ),
    }
    BINS = 20

    def __init__(self, shape: ModelShape, *, epsilon: float = 0.01, k: int = 5) -> None:
        require_epsilon(epsilon)
        if isinstance(k, bool) or k < 1:
            raise InputError(f"k is {k}; expected a positive number.")
        super().__init__(shape, epsilon=epsilon, k=k)
        # How many neurons there are is seen with the first layer.
        self.zeros("on", shape.n_layers, 0, dtype="int64")
        self.zeros("nonzero", shape.n_layers, 0, dtype="int64")
        self.zeros("tokens", shape.n_layers, dtype="int64")
        self.zeros("width", shape.n_layers, dtype="int64")

    def sizes(self) -> dict[str, int]:
        """Bins of the histogram, and how many neurons are named."""
        return {"neuron_firing_rate": self.BINS, "neuron_firing_rank": self.options["k"]}

    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Middles of the bins, and ranks from 0."""
        middles = (np.arange(self.BINS) + 0.5) / self.BINS
        ranks = np.arange(self.options["k"], dtype=np.int32)
        return {
            "neuron_firing_rate": (("neuron_firing_rate",), middles),
            "neuron_firing_rank": (("neuron_firing_rank",), ranks),
        }

    def update(self, layer: Layer) -> None:
        """Count at how many tokens each neuron is on."""
        if not layer.has(*self.parts):
            return
        number = layer.number
        for name, epsilon in (("on", self.options["epsilon"]), ("nonzero", 0.0)):
            on = is_on(layer, epsilon)
            width = on.shape[-1]
            self.arrays[name] = _widened(self.arrays[name], width)
            self.arrays[name][number, :width] += on.sum(0).long().cpu().numpy()
        self.arrays["tokens"][number] += len(on)
        self.arrays["width"][number] = width

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Add counts; one of the two may not have seen a layer yet."""
        if name == "width":
            return np.asarray(np.maximum(mine, theirs))
        if name == "tokens":
            return np.asarray(mine + theirs)
        width = max(mine.shape[1], theirs.shape[1])
        return np.asarray(_widened(mine, width) + _widened(theirs, width))

    def fits(self, name: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """Counts are as wide as the widest layer that was seen."""
        array = arrays[name]
        if name in ("on", "nonzero"):
            return array.ndim == 2 and len(array) == self.shape.n_layers
        return super().fits(name, arrays)

    def value(self, intervals: bool = True) -> Arrays:
        """Shares by layer, and the neurons at both ends."""
        found: Arrays = {}
        sizes = {**self.shape.sizes, **self.sizes()}
        for name, output in self.outputs.items():
            fill = np.nan if output.dtype == "float64" else output.missing
            found[name] = np.full([sizes[axis] for axis in output.axes], fill, output.dtype)
        for layer in np.flatnonzero(self.arrays["tokens"]):
            for end, value in self._of(int(layer)).items():
                row = found[self.name + end][layer]
                if end in ("_least", "_most"):
                    row[: len(value)] = value
                else:
                    found[self.name + end][layer] = value
        return found

    def _of(self, layer: int) -> dict[str, np.ndarray]:
        """What is said of one layer, by the ends of the names."""
        width, tokens = self.arrays["width"][layer], self.arrays["tokens"][layer]
        on = self.arrays["on"][layer, :width]
        rate = on / tokens
        place = np.minimum((rate * self.BINS).astype(int), self.BINS - 1)
        order = np.argsort(on, kind="stable")
        ends = {
            "": rate.mean(),
            "_dead": (on == 0).mean(),
            "_always": (on == tokens).mean(),
            "_zero": (self.arrays["nonzero"][layer, :width] == 0).mean(),
            "_bound": 3 / tokens,
            "_histogram": np.bincount(place, minlength=self.BINS) / width,
            "_least": order[: self.options["k"]],
            "_most": order[::-1][: self.options["k"]],
        }
        return {end: np.asarray(value) for end, value in ends.items()}


def _widened(counts: np.ndarray, width: int) -> np.ndarray:
    """Counts [layer, neuron] with at least so many neurons."""
    missing = max(0, width - counts.shape[1])
    return np.asarray(np.pad(counts, ((0, 0), (0, missing))))
