"""The ``meta`` trait of a patching sweep, for live views and frozen pages alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from layerlens.export.meta import MetaToken
from layerlens.export.setup import setup_code
from layerlens.glossary import terms_in
from layerlens.result.checks import Check, Checks

if TYPE_CHECKING:
    import xarray as xr


SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "rot_q",
    "rot_k",
)  # fmt: skip
"""Sites that the patch bench sweeps and patches."""

GRIDS = (("layer", "position"), ("layer", "head"))
"""Axes of the grids that it shows."""


class MetaMetric(TypedDict):
    """The metric and its value in the two unpatched runs; None until they are known."""

    name: str
    long_name: str
    units: str
    clean: float | None
    corrupt: float | None


class PatchMeta(TypedDict):
    """The ``meta`` trait.

    `rows` and `columns` label the grid (layers; tokens or heads), `row_numbers` and
    `column_numbers` say which layers and which positions or heads they are: a sweep may be asked
    for some of them only. `partners` has for each position of the text that is patched (`patched`:
    ``clean`` or ``corrupt``) the position of the other one that belongs to it, None for none.
    `no_estimate` says why no estimate was drawn first; empty where one was, or none was asked for.
    """

    run: int
    model: str
    model_type: str
    dtype: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_vocab: int
    clean_tokens: list[MetaToken]
    corrupt_tokens: list[MetaToken]
    differing: list[int]
    patched: str
    partners: list[int | None]
    site: str
    by: str
    rows: list[str]
    columns: list[str]
    row_numbers: list[int]
    column_numbers: list[int]
    metric: MetaMetric
    answer: dict[str, Any] | None
    wrong: dict[str, Any] | None
    direction: str
    method: str
    no_estimate: str
    sites: list[str]
    notes: list[str]
    checks: list[dict[str, Any]]
    code: str
    setup: str
    source: str
    question: str
    cost: str
    lead: str
    terms: dict[str, str]


def patch_meta(
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any],
    checks: Iterable[Check] = (),
    run: int = 1,
) -> PatchMeta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    attrs : mapping
        Attributes as a result of one pair has them; while a run is young some are missing and
        become empty or None.
    coords : mapping
        Arrays by coordinate name: ``layer``, and ``token`` (over position) or ``head``.
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.

    Returns
    -------
    PatchMeta
        Plain Python values only; fits into JSON.
    """
    by = "head" if "head" in coords else "position"
    layers = [int(layer) for layer in _values(coords, "layer")]
    site = str(attrs.get("site", ""))
    meta: dict[str, Any] = {
        "run": run,
        **_model(attrs),
        "clean_tokens": tokens_of(attrs, "clean"),
        "corrupt_tokens": tokens_of(attrs, "corrupt"),
        **_pairing(attrs),
        "site": site,
        "by": by,
        "rows": [str(layer) for layer in layers],
        "columns": _columns(coords, by),
        "row_numbers": layers,
        "column_numbers": [int(number) for number in _values(coords, by)],
        "metric": _metric(attrs),
        "answer": _token(attrs, "answer"),
        "wrong": _token(attrs, "wrong"),
        "sites": [str(name) for name in _json(attrs.get("sites"), [site])],
        "notes": [str(note) for note in _json(attrs.get("notes"), [])],
        "checks": Checks(checks).records(),
        "setup": setup_code(attrs),
        **{name: str(attrs.get(name, "")) for name in _WORDS},
    }
    meta["terms"] = terms_in(_said(meta))
    return cast(PatchMeta, meta)


def _said(meta: Mapping[str, Any]) -> list[str]:
    """Return every sentence of the picture, in which terms are looked for."""
    metric = meta["metric"]
    measured = (metric["name"], metric["long_name"], metric["units"], "recovered")
    return [meta["question"], meta["lead"], meta["direction"], *measured, *meta["sites"]]


def patch_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> PatchMeta:
    """Build the ``meta`` trait from the data of a result of one pair (no ``batch`` axis)."""
    coords = {name: data[name].values for name in _NAMES if name in data.variables}
    units = data["metric"].attrs.get("units", "") if "metric" in data else ""
    return patch_meta({"metric_units": units, **data.attrs}, coords, checks, run)


_WORDS = ("direction", "method", "code", "source", "question", "cost", "no_estimate", "lead")
_NAMES = ("layer", "position", "token", "head")


def tokens_of(attrs: Mapping[str, Any], name: str) -> list[MetaToken]:
    """Return the tokens of one of the texts that a result names in its attributes."""
    ids = _json(attrs.get(f"{name}_ids"), [])
    texts = _json(attrs.get(f"{name}_tokens"), [str(i) for i in ids])
    continues = _json(attrs.get(f"{name}_continues"), [False] * len(ids))
    return [
        MetaToken(id=int(i), text=str(text), cont=bool(cont))
        for i, text, cont in zip(ids, texts, continues, strict=True)
    ]


def _model(attrs: Mapping[str, Any]) -> dict[str, Any]:
    words = {name: str(attrs.get(name, "")) for name in ("model", "model_type", "dtype")}
    counts = ("n_layers", "n_heads", "n_kv_heads", "d_vocab")
    return {**words, **{name: int(attrs.get(name, 0)) for name in counts}}


def _columns(coords: Mapping[str, Any], by: str) -> list[str]:
    if by == "head":
        return [str(head) for head in _values(coords, "head")]
    return [str(text) for text in _values(coords, "token") or _values(coords, "position")]


def _pairing(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return which text is patched, what belongs to its positions, and where tokens differ."""
    options = _json(attrs.get("options"), {})
    noise = options.get("direction") == "noise"
    clean, corrupt = (_json(attrs.get(f"{name}_ids"), []) for name in ("clean", "corrupt"))
    base, other = (clean, corrupt) if noise else (corrupt, clean)
    given = options.get("align")
    align = given or [(i, i) for i in range(min(len(base), len(other)))]
    links = [(c % len(clean), k % len(corrupt)) for c, k in align]
    partner = {(c if noise else k): (k if noise else c) for c, k in links}
    partners = [partner.get(i) for i in range(len(base))]
    differing = [i for i, there in enumerate(partners) if there is None or base[i] != other[there]]
    patched = "clean" if noise else "corrupt"
    return {"differing": differing, "patched": patched, "partners": partners}


def _metric(attrs: Mapping[str, Any]) -> MetaMetric:
    name = str(attrs.get("metric", ""))
    return MetaMetric(
        name=name,
        long_name=str(attrs.get("metric_words", name)),
        units=str(attrs.get("metric_units", "")),
        clean=_finite(attrs.get("clean_metric")),
        corrupt=_finite(attrs.get("corrupt_metric")),
    )


def _token(attrs: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    number = attrs.get(name)
    if number is None:
        return None
    known = _json(attrs.get("vocab"), {})
    text = attrs.get(f"{name}_token", known.get(str(int(number)), f"[{int(number)}]"))
    return {"id": int(number), "text": str(text)}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _json(value: Any, default: Any) -> Any:
    if value is None:
        return default
    return json.loads(value) if isinstance(value, str) else value


def _values(coords: Mapping[str, Any], name: str) -> list[Any]:
    return np.asarray(coords[name]).tolist() if name in coords else []
