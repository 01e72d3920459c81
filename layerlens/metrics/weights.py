"""Each weight matrix by itself: its size, and how many directions it really uses.

No text and no pass is needed. Matrices are those of `layerlens.metrics.projections`; of the
experts of a mixture the mean is given, and the smallest and largest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, Output, WeightMetric
from layerlens.metrics.projections import embeddings, projections
from layerlens.metrics.registry import register
from layerlens.metrics.spectra import known_eigenvalues
from layerlens.model.matrices import require_matrices

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

AXES = ("layer", "projection")


def described(
    name: str, units: str, words: str, more: Mapping[str, tuple[str, str]] | None = None
) -> dict[str, Output]:
    """Outputs of a metric of matrices.

    Parameters
    ----------
    more
        End of the name -> (units, words), for what else is measured of each matrix.
    """
    found = {name: Output(AXES, units, words, interval=False)}
    for end, (unit, other) in (more or {}).items():
        found[f"{name}_{end}"] = Output(AXES, unit, other, interval=False)
    for end in ("smallest", "largest"):
        text = f"{words}, {end} of the experts"
        found[f"{name}_{end}"] = Output(AXES, units, text, interval=False)
    text = f"{words}, of the embedding"
    found[f"{name}_embedding"] = Output(("embedding",), units, text, interval=False)
    return found


class OfMatrices(WeightMetric):
    """Numbers for each weight matrix: by layer and projection, and for the embeddings."""

    axes = AXES

    def prepare(self, model: LensModel) -> None:
        """See which projections there are in any layer, and whether embeddings are tied."""
        names: dict[str, None] = {}
        for layer in range(model.n_layers):
            names |= dict.fromkeys(part.name for part in projections(model, layer))
        self._names = list(names)
        self._embeddings = list(embeddings(model))

    def sizes(self) -> dict[str, int]:
        """How many projections and embeddings."""
        return {"projection": len(self._names), "embedding": len(self._embeddings)}

    def coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Their names."""
        return {
            "projection": (("projection",), np.array(self._names)),
            "embedding": (("embedding",), np.array(self._embeddings)),
        }

    @abstractmethod
    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """Numbers of one matrix, by the ends of their names; the metric's own is "".

        Parameters
        ----------
        weight
            ``[out, in]``.
        spectrum
            Gives its eigenvalues, ascending.
        """

    def compute(self, model: LensModel, tick: Callable[[], None] = lambda: None) -> Arrays:
        """The numbers of every matrix; NaN where a layer has no such projection."""
        sizes = {**self.shape.sizes, **self.sizes()}
        found: Arrays = {
            name: np.full([sizes[axis] for axis in output.axes], np.nan)
            for name, output in self.outputs.items()
        }
        with torch.inference_mode():
            for layer in range(model.n_layers):
                for part in projections(model, layer):
                    rows = []
                    for number, weight in enumerate(part.weights):
                        tick()
                        name = f"{layer}.{part.name}.{number}"
                        rows.append(self._one(model, name, weight))
                    self._put(found, (layer, self._names.index(part.name)), rows)
            for number, (name, weight) in enumerate(embeddings(model).items()):
                tick()
                found[f"{self.name}_embedding"][number] = self._one(model, name, weight)[""]
        return found

    def _one(self, model: LensModel, name: str, weight: Tensor) -> dict[str, float]:
        return self.measure(weight, lambda: known_eigenvalues(model, name, weight))

    def _put(self, found: Arrays, cell: tuple[int, int], rows: list[dict[str, float]]) -> None:
        """Enter the mean over experts, and the range of the first number."""
        for end in rows[0]:
            values = np.array([row[end] for row in rows])
            found[self.name + (f"_{end}" if end else "")][cell] = values.mean()
        own = [row[""] for row in rows]
        found[f"{self.name}_smallest"][cell] = min(own)
        found[f"{self.name}_largest"][cell] = max(own)

    @classmethod
    def missing(cls, model: LensModel) -> str | None:
        """Weights that are quantised or elsewhere cannot be read."""
        try:
            require_matrices(model)
        except InputError as error:
            return str(error)
        return None


@register
class WeightNorm(OfMatrices):
    """Frobenius norm, root mean square of the entries, and largest singular value."""

    name = "weight_norm"
    question = "How large are the weights of each layer?"
    formula = "sqrt(sum_ij w_ij^2); rms: over sqrt of the number of entries; spectral: sigma_max"
    units = "1"
    source = "Golub and Van Loan, Matrix Computations; spectral norm: largest singular value"
    outputs: ClassVar[Mapping[str, Output]] = described(
        name,
        units,
        "Frobenius norm of the weights",
        {
            "rms": (units, "root mean square of the weights"),
            "spectral": (units, "spectral norm (largest singular value)"),
        },
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The three norms."""
        values = spectrum()
        total = float(values.sum())
        return {
            "": total**0.5,
            "rms": (total / weight.numel()) ** 0.5,
            "spectral": float(values[-1]) ** 0.5,
        }


@register
class WeightStableRank(OfMatrices):
    """Stable rank: how many directions carry as much as the largest one."""

    name = "weight_stable_rank"
    question = "How many directions of a weight matrix are as large as its largest?"
    formula = "sum_i lambda_i / lambda_max, lambda = sigma^2"
    units = "1"
    source = (
        "Rudelson and Vershynin (2007), Sampling from Large Matrices; as in Martin and Mahoney "
        "(2021), Predicting trends in the quality of neural networks without access to data"
    )
    outputs: ClassVar[Mapping[str, Output]] = described(
        name,
        units,
        "stable rank",
        {"share": ("1", "stable rank over the smaller side of the matrix")},
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The rank, NaN for a matrix of zeros."""
        values = spectrum()
        rank = float(values.sum() / values[-1]) if values[-1] > 0 else float("nan")
        return {"": rank, "share": rank / len(values)}


@register
class WeightEffectiveRank(OfMatrices):
    """Effective rank: the exponential of the entropy of the singular values."""

    name = "weight_effective_rank"
    question = "Over how many directions is a weight matrix spread?"
    formula = "exp(-sum_i p_i ln p_i), p = sigma / sum sigma"
    units = "1"
    source = "Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality"
    outputs: ClassVar[Mapping[str, Output]] = described(
        name,
        units,
        "effective rank",
        {"share": ("1", "effective rank over the smaller side of the matrix")},
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The rank, NaN for a matrix of zeros."""
        values = spectrum()
        rank = float(np.exp(entropy(np.sqrt(values))))
        return {"": rank, "share": rank / len(values)}


@register
class WeightEntropy(OfMatrices):
    """Matrix entropy: how evenly the eigenvalues are spread, whatever the size."""

    name = "weight_entropy"
    question = "Are the directions of a weight matrix alike (1), or does one dominate (0)?"
    formula = "-sum_i p_i ln p_i / ln rank, p = lambda / sum lambda, lambda = sigma^2"
    units = "1"
    source = (
        "Martin and Mahoney (2021), Implicit Self-Regularization in Deep Neural Networks, JMLR 22"
    )
    outputs: ClassVar[Mapping[str, Output]] = described(
        name, units, "entropy of the eigenvalues, over that of equal ones"
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The entropy; 0 for a matrix of rank one, NaN for one of zeros."""
        values = spectrum()
        rank = int((values > 0).sum())
        return {"": 0.0 if rank == 1 else entropy(values) / float(np.log(max(rank, 2)))}


def entropy(sizes: np.ndarray) -> float:
    """Entropy in nats of numbers from 0 up, taken as shares; NaN where all are zero."""
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return float("nan")
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum())
