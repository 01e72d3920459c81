"""The eigenvalues of one weight matrix: density, the power law in their tail, two controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError
from layerlens.metrics.projections import embeddings, projections
from layerlens.metrics.spectra import PowerLaw, eigenvalues, fit_power_law, known_eigenvalues
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

FIT = "Clauset, Shalizi and Newman (2009), Power-law distributions in empirical data"
RANDOM = "Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices"
MARTIN = "Martin and Mahoney (2021), Implicit Self-Regularization in Deep Neural Networks, JMLR 22"

_CURVE = ("eigenvalue",)
_PER = "share per unit of eigenvalue"
VARIABLES = {
    "density": Variable(_CURVE, "float64", _PER, "density of the eigenvalues", source=MARTIN),
    "power_law": Variable(
        _CURVE,
        "float64",
        _PER,
        "density of the fitted power law",
        source=FIT,
        formula="tail / n * (alpha - 1) / xmin * (lambda / xmin)^-alpha from xmin on",
    ),
    "marchenko_pastur": Variable(
        _CURVE,
        "float64",
        _PER,
        "density for independent entries of the same size",
        source=RANDOM,
        formula="sqrt((b - lambda)(lambda - a)) / (2 pi v m lambda), a, b = v (sqrt n -+ sqrt m)^2",
    ),
    "shuffled_density": Variable(
        _CURVE, "float64", _PER, "density with the entries shuffled", source=MARTIN
    ),
    "eigenvalues": Variable(("rank",), "float64", "1", "eigenvalue, the largest first"),
    "shuffled_eigenvalues": Variable(
        ("rank",), "float64", "1", "eigenvalue with the entries shuffled, the largest first"
    ),
    "fit": Variable(
        ("spectrum", "number"), "float64", "1", "power law that fits the tail", source=FIT
    ),
}
SPECTRA = ("weights", "shuffled")
NUMBERS = ("alpha", "error", "distance", "xmin", "tail", "poor")


def count_work(
    model: LensModel, *, matrix: str | None, expert: int, bins: int | None, seed: int
) -> Work:
    """Count operations and bytes of one call; runs nothing."""
    shape = _find(model, matrix, expert)[1].shape
    long, short = max(shape), min(shape)
    operations = 2 * (2.0 * long * short**2 + 9.0 * short**3)
    return Work(0, 0, 8 * (2 * short**2 + 2 * long * short), tokens=0, operations=operations)


@analysis(
    name="spectrum",
    question="Is the spectrum of a weight matrix that of random numbers, or has it a heavy tail?",
    source=f"{MARTIN}; fit: {FIT}; control: {RANDOM}",
    cost="no pass, weights only",
    view="curves",
    lead="A matrix of random numbers ends where its control ends; what reaches beyond, along a "
    "straight line in logarithmic axes, is a heavy tail.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("matrix",),
)
def spectrum(
    job: Job,
    model: LensModel,
    *,
    matrix: str | None = None,
    expert: int = 0,
    bins: int | None = None,
    seed: int = 0,
) -> None:
    """Show all eigenvalues of one weight matrix beside what random weights would have.

    An eigenvalue is the square of a singular value. The two controls are the law of Marchenko and
    Pastur, which random entries of the same size follow in a matrix of this shape, and the same
    entries in random order: what the weights have and the shuffled ones have not is in how they
    are arranged. The power law is the fit of the metric ``weight_alpha``.

    Parameters
    ----------
    matrix
        ``"q.3"`` for q of layer 3, likewise ``k``, ``v``, ``o``, ``gate``, ``up``, ``down`` and
        what else the block has; ``"embed"`` or ``"unembed"``. None: the first one of layer 0.
    expert
        Which one, in a mixture of experts.
    bins
        Points of a curve: bins that are equally wide on a logarithmic scale. None: as many as the
        eigenvalues fill well, twice the root of their number.
    seed
        Of the order of the shuffled entries.

    Notes
    -----
    A density is the share of the eigenvalues in a bin over the bin's width, so all curves can lie
    on each other; on logarithmic axes a power law is a line. Eigenvalues that are zero, up to
    rounding, are in no bin. ``fit`` holds, for the weights and for the shuffled ones, ``alpha``,
    its standard ``error``, the Kolmogorov-Smirnov ``distance``, ``xmin``, the number of
    eigenvalues in the ``tail`` and ``poor``: 1 where the fit says nothing. Weights are read as
    they are: no norm is folded in, and nothing of the model is changed.

    Raises
    ------
    InputError
        There is no such matrix, or it cannot be read as numbers.

    Examples
    --------
    >>> import layerlens as ll
    >>> found = ll.spectrum(ll.load("toy:induction"), "down.1").data
    >>> found.sizes["rank"], found.attrs["shape"]
    (16, '64 x 16')
    """
    name, weight = _find(model, matrix, expert)
    bins = round(2 * min(weight.shape) ** 0.5) if bins is None else whole(bins, "bins")
    if bins < 2:
        raise InputError(f"bins is {bins}; expected 2 or more.")
    values = known_eigenvalues(model, name, weight)  # under the name that the metrics give it
    job.tick()
    generator = torch.Generator().manual_seed(whole(seed, "seed"))
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    shuffled = eigenvalues(weight.flatten()[order].view(weight.shape))
    job.tick()
    edges = _edges(np.concatenate([values, shuffled]), bins)
    laws = [fit_power_law(values), fit_power_law(shuffled)]
    job.declare(
        {"eigenvalue": bins, "rank": len(values), "spectrum": 2, "number": len(NUMBERS)},
        {
            "eigenvalue": (("eigenvalue",), _middles(edges)),
            "rank": (("rank",), np.arange(1, len(values) + 1, dtype=np.int32)),
            "spectrum": (("spectrum",), np.array(SPECTRA)),
            "number": (("number",), np.array(NUMBERS)),
        },
    )
    size = float(torch.linalg.vector_norm(weight.double()).cpu())
    job.emit(
        {},
        {
            "density": _density(values, edges),
            "shuffled_density": _density(shuffled, edges),
            "power_law": _law_density(laws[0], len(values), edges),
            "marchenko_pastur": np.diff(_random_share(edges, weight.shape, size)) / np.diff(edges),
            "eigenvalues": values[::-1],
            "shuffled_eigenvalues": shuffled[::-1],
            "fit": np.array([[float(getattr(law, each)) for each in NUMBERS] for law in laws]),
        },
    )
    job.note(passes=0, matrix=_said(name), shape=" x ".join(map(str, weight.shape)))
    if laws[0].poor:
        job.remark(
            "No power law fits this tail (distance above 0.1, or fewer than 50 eigenvalues in it): "
            "the exponent says nothing."
        )
    error = abs(values.sum() - size**2) / max(size**2, np.finfo(float).tiny)
    job.check("sum", error, 1e-6, "sum of the eigenvalues against that of the squared weights")


def _find(model: LensModel, matrix: str | None, expert: int) -> tuple[str, Tensor]:
    """Name among the known spectra, and weight ``[out, in]``."""
    apart = embeddings(model)
    if matrix in apart:
        return matrix, apart[matrix]
    kind, _, number = (matrix or "").rpartition(".")
    if matrix is not None and not (kind and number.lstrip("-").isdigit()):
        raise InputError(
            f"matrix is {matrix!r}; expected a projection and its layer, like 'q.3', or "
            f"{' or '.join(map(repr, apart))}."
        )
    layer = model.layers(int(number))[0] if matrix else 0
    found = {part.name: part for part in projections(model, layer)}
    kind = kind or next(iter(found), "")
    if kind not in found:
        raise nearest(kind, list(found), f"Projection of layer {layer}:")
    weights = found[kind].weights
    if not 0 <= whole(expert, "expert") < len(weights):
        raise InputError(
            f"expert is {expert}; {kind} of layer {layer} has {len(weights)}, counted from 0."
        )
    return f"{layer}.{kind}.{expert}", weights[expert]


def _said(name: str) -> str:
    """A matrix as the option names it."""
    layer, _, rest = name.partition(".")
    kind, _, expert = rest.rpartition(".")
    return name if not rest else f"{kind}.{layer}" + (f", expert {expert}" if expert != "0" else "")


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Ends of the bins, from the smallest eigenvalue that is not zero to the largest."""
    some = values[values > 0]
    low, high = (some.min(), some.max()) if len(some) else (1.0, 1.0)
    edges = np.geomspace(low, high if high > low else 2 * low, bins + 1)
    edges[-1] *= 1 + 1e-12  # the last value belongs to the last bin, however it rounds
    return edges


def _middles(edges: np.ndarray) -> np.ndarray:
    """Middle of each bin, in digits that can stand beside an axis."""
    return np.array([float(f"{middle:.4g}") for middle in np.sqrt(edges[1:] * edges[:-1])])


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(values, edges)
    return np.asarray(counts / len(values) / np.diff(edges))


def _law_density(law: PowerLaw, n: int, edges: np.ndarray) -> np.ndarray:
    """Density of a power law in each bin; NaN before its tail begins."""
    if not law.tail:
        return np.full(len(edges) - 1, np.nan)
    above = (edges.clip(law.xmin) / law.xmin) ** (1 - law.alpha)
    found = law.tail / n * -np.diff(above) / np.diff(edges)
    # A bin in which the tail begins holds a part of it only.
    return np.where(edges[:-1] >= law.xmin, found, np.nan)


def _random_share(at: np.ndarray, shape: Any, size: float) -> np.ndarray:
    """Share of the eigenvalues of random entries that lie below each of some values.

    Parameters
    ----------
    size
        Frobenius norm that the entries have together.
    """
    long, short = max(shape), min(shape)
    variance = size**2 / (long * short)
    low, high = (variance * (long**0.5 + sign * short**0.5) ** 2 for sign in (-1, 1))
    # Along the angle of a half circle over the support nothing is infinite; midpoints miss 0 / 0.
    steps = 4096
    angle = (np.arange(steps) + 0.5) * np.pi / steps
    half = (high - low) / 2
    x = low + half * (1 - np.cos(angle))
    parts = half**2 * np.sin(angle) ** 2 / (2 * np.pi * variance * short * x) * np.pi / steps
    ends = low + half * (1 - np.cos(np.arange(steps + 1) * np.pi / steps))
    return np.asarray(np.interp(at, ends, np.concatenate([[0.0], parts.cumsum()])))
