"""Heavy tails of weight spectra: the exponent of a power law, found in three ways.

The exponent ``alpha`` is that of the density of eigenvalues, ``p(lambda) ~ lambda^-alpha``; a
smaller one is a heavier tail. WeightWatcher calls a matrix under-trained above 6 and over-trained
below 2. Weights that are random have no heavy tail, and then the number means nothing:
``weight_alpha_poor`` says where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.spectra import fit_power_law, hill, window_eigenvalues
from layerlens.metrics.weights import OfMatrices, described

_MORE = {
    "distance": ("1", "Kolmogorov-Smirnov distance of the tail from the power law"),
    "poor": ("1", "whether the fit says nothing (1): distance > 0.1 or fewer than 50 in the tail"),
    "error": ("1", "standard error of the exponent"),
    "xmin": ("1", "eigenvalue at which the tail begins"),
    "tail": ("1", "eigenvalues in the tail"),
    "weighted": ("1", "exponent times log10 of the largest eigenvalue"),
}


@register
class WeightAlpha(OfMatrices):
    """Exponent of the power law in the tail, by maximum likelihood.

    Eigenvalues that cannot be told from zero are left out; WeightWatcher leaves out those below
    1e-5, whatever the scale. Of a mixture, ``poor`` is the share of experts whose fit says
    nothing.
    """

    name = "weight_alpha"
    question = "How heavy is the tail of a weight matrix's spectrum, and does a power law fit?"
    formula = "1 + n / sum_j ln(lambda_j / xmin) over the n eigenvalues from xmin = argmin KS on"
    units = "1"
    source = (
        "Martin, Peng and Mahoney (2021), Predicting trends in the quality of state-of-the-art "
        "neural networks without access to training or testing data; fit: Clauset, Shalizi and "
        "Newman (2009), Power-law distributions in empirical data"
    )
    outputs: ClassVar[Mapping[str, Output]] = described(
        name, units, "exponent of the spectrum's tail", _MORE
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The fit and how good it is."""
        values = spectrum()
        law = fit_power_law(values)
        with np.errstate(divide="ignore"):
            largest = float(np.log10(values[-1]))
        return {
            "": law.alpha,
            "distance": law.distance,
            "poor": float(law.poor),
            "error": law.error,
            "xmin": law.xmin,
            "tail": float(law.tail),
            "weighted": law.alpha * largest,
        }


@register
class WeightAlphaHill(OfMatrices):
    """Exponent of the larger half of the spectrum, by Hill's estimate.

    It is biased by the shape of the matrix: of random ones, 2.1 for a square, 3.5 for one that is
    four times as long as wide. ``weight_farms`` is not.
    """

    name = "weight_alpha_hill"
    question = "How heavy is the larger half of a weight matrix's spectrum?"
    formula = "1 + n / sum_j ln(lambda_j / lambda_mid) over the n eigenvalues from the middle on"
    units = "1"
    source = (
        "Hill (1975), A simple general approach to inference about the tail of a distribution; "
        "Zhou et al. (2023), Temperature Balancing, Layer-wise Weight Analysis, arXiv 2312.00359"
    )
    outputs: ClassVar[Mapping[str, Output]] = described(
        name, units, "exponent of the spectrum's larger half"
    )

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The estimate."""
        return {"": hill(spectrum())}


@register
class WeightFarms(OfMatrices):
    """Exponent of the eigenvalues of square windows together, so that shape does not matter.

    Parameters
    ----------
    window
        Side of a window; smaller matrices have one of their smaller side.
    steps
        Windows along each side, spread evenly.
    cover
        Take more along a side that they would leave gaps in. The embeddings, which are very
        long, are never covered.
    fit
        ``"hill"``, the larger half of the spectrum, or ``"mle"``, the tail that fits best.
    """

    name = "weight_farms"
    question = "How heavy is the tail of a weight matrix's spectrum, whatever its shape?"
    formula = "Hill's exponent of the eigenvalues of all window x window parts together"
    units = "1"
    source = (
        "Hu et al. (2025), Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias, "
        "arXiv 2506.06280 (FARMS)"
    )
    cost = "no pass, weights only; as long as all other metrics of weights together"
    outputs: ClassVar[Mapping[str, Output]] = described(
        name, units, "exponent of the spectrum of square windows"
    )

    def __init__(
        self,
        shape: ModelShape,
        *,
        window: int = 128,
        steps: int = 5,
        cover: bool = True,
        fit: Literal["hill", "mle"] = "hill",
    ) -> None:
        if window < 2 or steps < 1:
            raise InputError(
                f"window is {window} and steps {steps}; expected a window from 2 and steps from 1."
            )
        if fit not in ("hill", "mle"):
            raise InputError(f"fit is 'hill' or 'mle', not {fit!r}.")
        super().__init__(shape, window=window, steps=steps, cover=bool(cover), fit=fit)

    def measure(self, weight: Tensor, spectrum: Callable[[], np.ndarray]) -> dict[str, float]:
        """The exponent of all windows."""
        window, steps = self.options["window"], self.options["steps"]
        cover = self.options["cover"] and weight.shape[0] < self.shape.d_vocab
        values = window_eigenvalues(weight, window, steps, cover=cover)
        return {"": hill(values) if self.options["fit"] == "hill" else fit_power_law(values).alpha}
