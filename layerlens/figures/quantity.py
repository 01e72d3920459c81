"""What colours the cells of a lens table: values, scale, and words for the colour bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from layerlens.errors import ResultError
from layerlens.figures.fonts import drawable

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


_SOME = 1e-3  # nats from which two distributions differ at all
_SHARE = 0.9  # of the cells that differ, whose divergence the colours tell apart


@dataclass(frozen=True)
class Quantity:
    """One number a cell, what it is called, its range, and the name of its colour map."""

    values: NDArray[np.float64]
    label: str
    norm: Normalize
    colors: str
    extend: str = "neither"
    """At which ends of the colours values lie beyond, as matplotlib's colour bars have it."""


def quantity(data: xr.Dataset, color: str, tracked: int) -> Quantity:
    """Return what `color` names.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text.
    color : str
        What the cells show: ``probability``, ``entropy``, ``rank``, ``kl``, ``tracked``; of two
        lenses ``change``, ``kl_between``; of what was written ``written``, ``margin``.
    tracked : int
        Which of the tracked tokens, for ``"tracked"``.

    Raises
    ------
    ResultError
        The name is unknown, or the result lacks the variable.
    """
    makers = {
        "probability": _probability,
        "entropy": _entropy,
        "rank": _rank,
        "kl": _kl,
        "change": _change,
        "kl_between": _kl_between,
        "written": _written,
        "margin": _margin,
    }
    if color == "tracked":
        return _tracked(data, tracked)
    if color not in makers:
        raise ResultError(
            f"Cells cannot be coloured by '{color}'; choose {', '.join(makers)} or tracked."
        )
    return makers[color](data)


def _values(data: xr.Dataset, name: str, **choice: int) -> NDArray[np.float64]:
    if name not in data.data_vars:
        raise ResultError(f"This result has no '{name}'; colour the cells by something else.")
    chosen = data[name].isel(choice).transpose("point", "position")
    values: NDArray[np.float64] = chosen.values.astype(np.float64)
    return values


def _probability(data: xr.Dataset) -> Quantity:
    return Quantity(
        _values(data, "probability", k=0), "probability of the top token", Normalize(0, 1), "base"
    )


def _written(data: xr.Dataset) -> Quantity:
    values = _values(data, "written_probability")
    return Quantity(values, "probability of the written token", Normalize(0, 1), "base")


def _margin(data: xr.Dataset) -> Quantity:
    words = "top probability minus the second"
    return Quantity(_values(data, "margin"), words, Normalize(0, 1), "base")


def _upper(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return max(float(finite.max()), 1e-3) if finite.size else 1.0


def _entropy(data: xr.Dataset) -> Quantity:
    values = _values(data, "entropy")
    top = np.log(data.attrs["d_vocab"]) if "d_vocab" in data.attrs else _upper(values)
    return Quantity(values, "entropy (nats)", Normalize(0, float(top)), "viridis")


def _kl(data: xr.Dataset) -> Quantity:
    values = _values(data, "kl_to_final")
    top = max(1.0, float(np.ceil(_upper(values))))
    return Quantity(values, "KL to the final row (nats)", Normalize(0, top), "cividis")


def _change(data: xr.Dataset) -> Quantity:
    words = f"change of P(top token) in {_other(data)}"
    return Quantity(_values(data, "change"), words, Normalize(-1, 1), "signed")


def _kl_between(data: xr.Dataset) -> Quantity:
    values = _values(data, "kl_between")
    some = values[values > _SOME]
    # A few cells (a token that differs, by itself) are far above the rest.
    top = max(0.1, float(np.quantile(some, _SHARE)) if some.size else 0.0)
    extend = "max" if (values > top).any() else "neither"
    return Quantity(values, f"KL to {_other(data)} (nats)", Normalize(0, top), "cividis", extend)


def _other(data: xr.Dataset) -> str:
    """Return what the other lens is of, in few words."""
    kinds = {"text": "the other text", "edits": "the edited run"}
    kind = str(data.attrs.get("other_kind", ""))
    return kinds.get(kind, drawable(str(data.attrs.get("other_label", "the other run"))))


def _rank(data: xr.Dataset) -> Quantity:
    values = _values(data, "rank")
    values = np.where(values >= 1, values, np.nan)
    norm = LogNorm(1, float(max(data.attrs.get("d_vocab", _upper(values)), 10)))
    name = str(data["rank"].attrs.get("long_name", "rank"))
    words = name if "1 = best" in name else f"{name} (1 = best)"
    return Quantity(values, words, norm, "viridis")


def _tracked(data: xr.Dataset, tracked: int) -> Quantity:
    count = data.sizes.get("tracked", 0)
    if not 0 <= tracked < count:
        raise ResultError(
            f"This result tracks {count} token{'s' * (count != 1)}, so there is no tracked token "
            f"{tracked}; name tokens to track when the analysis runs."
        )
    text = str(data["tracked_token"].values[tracked])
    values = _values(data, "tracked_probability", tracked=tracked)
    return Quantity(values, f"probability of {drawable(text)}", Normalize(0, 1), "tracked")
