"""What the view of a text that is being written shows around the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from layerlens.export.meta import Meta, meta_from
from layerlens.export.pack import WIRE, Wire, vocabulary_rows
from layerlens.glossary import terms_in
from layerlens.result.checks import Check

if TYPE_CHECKING:
    import xarray as xr

SAID = (
    "written token, probability, entropy in nats, rank, KL, settle layer, the exit layer by a rule "
    "and its threshold, greedy or at a temperature"
)
"""What the view shows, in the words of the glossary."""

WIRES = {
    **{name: WIRE[name] for name in ("token_id", "probability", "rank", "kl_to_final")},
    # Compared with thresholds, so not rounded further.
    **{
        name: Wire(name, "float32")
        for name in ("written_probability", "entropy", "margin", "state_cosine")
    },
    **{name: Wire(name, "int32", none=-1) for name in ("written_id", "settle_point")},
}
"""Variables that travel to the view."""


class MetaRule(TypedDict):
    """A rule to stop by: what its score is, what it has to exceed, and the ends of a slider."""

    name: str
    words: str
    threshold: float
    low: float
    high: float
    step: float


class GenerationMeta(Meta):
    """The ``meta`` trait; ``tokens`` are those written, once they are all there."""

    steps: int
    prompt: list[str]
    begun: int
    states: list[bool]
    rules: list[MetaRule]


def generation_meta_from(
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any],
    checks: Iterable[Check] = (),
    run: int = 1,
) -> GenerationMeta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    attrs : mapping
        Attributes as a result has them; ``text_tokens``, ``options`` and ``rules`` are JSON.
    coords : mapping
        ``point``, ``layer``, ``k``, ``step``, and ``token``, ``continues`` and ``written_id``
        (over step) of what is written.
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.
    """
    known = {name: array for name, array in coords.items() if name != "written_id"}
    if "written_id" in coords:
        known["input_id"] = coords["written_id"]
    meta = meta_from(attrs, known, checks, run)
    options = json.loads(attrs.get("options", "{}"))
    begin = options.get("begin") or []
    terms = terms_in([*(str(attrs.get(name, "")) for name in ("question", "lead")), SAID])
    labels = [str(label) for label in np.asarray(coords["point"]).tolist()]
    return GenerationMeta(
        **{**meta, "terms": terms},  # type: ignore[typeddict-item]
        steps=len(np.asarray(coords["step"])),
        prompt=[str(token) for token in json.loads(attrs.get("text_tokens", "[]"))],
        begun=1 if isinstance(begin, str | int) else len(begin),
        states=[not label.endswith("_out") for label in labels],
        rules=json.loads(attrs.get("rules", "[]")),
    )


def generation_meta_of(
    data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1
) -> GenerationMeta:
    """Build the ``meta`` trait from the data of a result of one text (no ``batch`` axis)."""
    attrs = dict(data.attrs)
    attrs.setdefault("d_vocab", vocabulary_rows(data))
    names = ("point", "layer", "k", "step", "token", "continues", "written_id")
    coords = {name: data[name].values for name in names if name in data.variables}
    return generation_meta_from(attrs, coords, checks, run)


def written(data: xr.Dataset) -> xr.Dataset:
    """The columns of a result that hold a token: texts beside it may have gone on for longer."""
    return data.isel(step=np.flatnonzero(data["written_id"].values >= 0))
