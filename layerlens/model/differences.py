"""How far two versions of one weight are from each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """Numbers of ``b - a``; NaN where a number has no meaning.

    Attributes
    ----------
    norm, relative
        Frobenius norm, and that over the norm of ``a``.
    mean_abs
        Mean absolute difference of an entry.
    cosine
        Of ``a`` and ``b`` as vectors.
    floor
        Relative norm that rounding to the weights' dtype alone may cause.
    spectral, stable_rank, effective_rank, rank
        Largest singular value; ``norm^2 / spectral^2``; the exponential of the entropy of the
        singular values (Roy & Vetterli 2007); and how many of them are above what rounding of the
        weights can explain. Of matrices only.
    """

    norm: float
    relative: float
    mean_abs: float
    cosine: float
    floor: float
    spectral: float = float("nan")
    stable_rank: float = float("nan")
    effective_rank: float = float("nan")
    rank: float = float("nan")


def difference(a: Tensor, b: Tensor, *, spectrum: bool = True) -> Difference:
    """Compare two versions of a weight of the same shape.

    Parameters
    ----------
    a, b
        ``[...]``; stacked matrices ``[expert, out, in]`` are put one below the other.
    spectrum
        Also what needs the singular values, from the smaller Gram matrix in float64.

    Examples
    --------
    >>> difference(torch.eye(3), torch.eye(3) + torch.ones(3, 3)).rank
    1.0
    """
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    x, y = a.detach().cpu().double(), b.detach().cpu().double()
    delta = y - x
    size, other = float(x.norm()), float(y.norm())
    norm = float(delta.norm())
    product = float((x * y).sum())
    # Of equal tensors the quotient may be off 1 by rounding.
    cosine = 1.0 if norm == 0 else _over(product, size * other)
    found = {
        "norm": norm,
        "relative": _over(norm, size),
        "mean_abs": float(delta.abs().mean()),
        "cosine": cosine,
        "floor": eps / 2,
    }
    if not spectrum or delta.dim() < 2:
        return Difference(**found)
    noise = eps / 2 * max(size, other) / (x.numel() ** 0.5)
    return Difference(**found, **_spectrum(delta.flatten(0, -2), norm, noise))


def _spectrum(delta: Tensor, norm: float, noise: float) -> dict[str, float]:
    """What the singular values say; ``noise`` is the size of an entry's rounding."""
    if norm == 0:
        return {"spectral": 0.0, "rank": 0.0}
    wide = delta.shape[0] < delta.shape[1]
    gram = delta @ delta.T if wide else delta.T @ delta
    values = torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).sqrt()
    largest = float(values[0])
    share = values / values.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    # The largest singular value of noise, and the root that squares lose in the Gram matrix.
    rows, columns = delta.shape
    above = max(2 * noise * (rows**0.5 + columns**0.5), 1e-7 * largest)
    return {
        "spectral": largest,
        "stable_rank": norm**2 / largest**2,
        "effective_rank": float(entropy.exp()),
        "rank": float((values > above).sum()),
    }


def _over(a: float, b: float) -> float:
    return a / b if b else float("nan")
