"""How well fitted lenses did on texts that they were not fitted on, as arrays over their points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.lenses.readers import KINDS
from layerlens.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.fitted import Fitted

MEASURES = {
    "kl": ("nats", "KL divergence, final from this lens"),
    "ce": ("nats", "cross-entropy of the next token"),
    "top1": ("1", "share of tokens with the final answer on top"),
    "identity": ("1", "1 where the lens leaves a state as it is, because no map was better"),
    "ridge": ("1", "penalty of the ridge map, as a share of the mean variance of an entry"),
}
"""What is measured at each point, its units and its name in words."""
SIMPLER = ("logit", "bias", "ridge")
"""Lenses that a fitted one is compared with, those that are simpler than itself."""


def lens_scores(fitted: Fitted, side: str = "test") -> xr.Dataset:
    """The scores of a fitted lens as arrays over ``point``.

    Parameters
    ----------
    fitted
        From ``ll.fit_lens``, or a file of one.
    side
        ``"test"``: texts that were set apart; ``"train"``: a sample of the others.

    Returns
    -------
    xarray.Dataset
        The measures that `layerlens.analyses.lenses.readers.KINDS` lists: ``kl``, ``kl_low``,
        ``kl_logit``, ``ce``, ``top1`` ..., float64 over ``point`` (its label) with the coordinate
        ``layer`` (-1 is ``embed``). NaN where a point has no such score.

    Raises
    ------
    InputError
        It is no lens, or has no scores of that side.

    Examples
    --------
    >>> import layerlens as ll
    >>> from layerlens.result.fitted import Fitted, ModelFacts
    >>> facts = ModelFacts("toy", "toy", "float32", 2, 8, "")
    >>> lens = Fitted("bias_lens", {}, facts, "", scores={"test": {"kl/0_post": 0.5}})
    >>> float(lens_scores(lens).kl.sel(point="0_post"))
    0.5
    """
    import xarray as xr

    if fitted.kind not in KINDS:
        raise InputError(f"This is a {fitted.kind}, which has no scores by point: give a lens.")
    flat = fitted.scores.get(side, {})
    named = {tuple(name.split("/", 1)): value for name, value in flat.items() if "/" in name}
    if not named:
        raise InputError(f"This {fitted.kind} has no scores of the side {side!r}.")
    labels = list(dict.fromkeys(label for _, label in named))
    layers = [-1 if label == "embed" else int(label.split("_")[0]) for label in labels]
    arrays = {}
    for measure in dict.fromkeys(measure for measure, _ in named):
        values = [named.get((measure, label), np.nan) for label in labels]
        units, words = MEASURES.get(measure.split("_")[0], ("", measure))
        arrays[measure] = ("point", np.array(values), {"units": units, "long_name": words})
    coords = {"point": labels, "layer": ("point", np.array(layers, dtype=np.int32))}
    return xr.Dataset(arrays, coords)
