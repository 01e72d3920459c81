"""What a view shows around the numbers: the ``meta`` trait, built in one place.

A live view has coordinates and attributes before any number; a result has them in its dataset.
Both go through `meta_from`, so a frozen page and a live widget say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from layerlens.export.pack import vocabulary_rows
from layerlens.export.setup import setup_code
from layerlens.glossary import terms_in
from layerlens.result.checks import Check, Checks

if TYPE_CHECKING:
    import xarray as xr


SAID = (
    "probability, entropy in nats, rank and KL of a lens at embed, mid and post of each block, "
    "by the logits of the model's head, KL held out, worse than a uniform guess",
)
"""What the lens table shows, in the words of the glossary."""


class MetaToken(TypedDict):
    """One token of the prompt; `cont` says that it only continues the character before."""

    id: int
    text: str
    cont: bool


class MetaOther(TypedDict):
    """What a lens is compared with: ``kind`` is ``model``, ``text`` or ``edits``."""

    kind: str
    label: str
    tokens: list[str]


class MetaLens(TypedDict):
    """One of the lenses that states are read through.

    ``points`` are those that it has a map for, None where it reads any; ``heldout`` is its KL from
    the final answer at each point, in nats, on texts that were set apart when it was fitted, and
    ``uniform`` that of a uniform guess there.
    """

    name: str
    points: list[str] | None
    heldout: list[float | None] | None
    uniform: float | None


class Meta(TypedDict):
    """The ``meta`` trait."""

    run: int
    model: str
    model_type: str
    dtype: str
    n_layers: int
    d_vocab: int
    notes: list[str]
    tokens: list[MetaToken]
    points: list[str]
    layers: list[int]
    k: int
    tracked: list[dict[str, Any]]
    other: MetaOther | None
    lenses: list[MetaLens]
    against: int
    source: str
    question: str
    cost: str
    code: str
    setup: str
    checks: list[dict[str, Any]]
    lead: str
    terms: dict[str, str]
    picture: dict[str, Any] | None


def meta_from(
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any],
    checks: Iterable[Check] = (),
    run: int = 1,
) -> Meta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    attrs : mapping
        Attributes as a result has them: ``model``, ``model_type``, ``dtype``, ``d_vocab``,
        ``n_layers``, ``notes`` (a list, or JSON of one), ``source``, ``question``, ``cost``,
        ``code``, ``picture`` where no text was fed, of two runs ``other_kind``, ``other_label``,
        ``other_tokens``, of lenses that were
        fitted, or of several, ``lenses`` and ``lens_against``; a missing one becomes empty,
        ``n_layers`` is read from the points.
    coords : mapping
        Arrays by coordinate name: ``point``, ``layer`` (over point), ``token`` and ``input_id``
        (over position), ``k``, and where there are any ``tracked``, ``tracked_token``,
        ``continues`` (over position), ``heldout_kl`` (over lens and point) and
        ``heldout_uniform`` (over lens).
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.

    Returns
    -------
    Meta
        Plain Python values only; fits into JSON.
    """
    layers = [int(layer) for layer in _values(coords, "layer")]
    notes = attrs.get("notes", [])
    return Meta(
        run=run,
        model=str(attrs.get("model", "")),
        model_type=str(attrs.get("model_type", "")),
        dtype=str(attrs.get("dtype", "")),
        n_layers=int(attrs.get("n_layers", max(layers, default=0))),
        d_vocab=int(attrs.get("d_vocab", 0)),
        notes=[str(note) for note in (json.loads(notes) if isinstance(notes, str) else notes)],
        tokens=_tokens(coords),
        points=[str(label) for label in _values(coords, "point")],
        layers=layers,
        k=len(_values(coords, "k")),
        tracked=_tracked(coords),
        other=_other(attrs),
        lenses=_lenses(attrs, coords),
        against=_against(attrs),
        source=str(attrs.get("source", "")),
        question=str(attrs.get("question", "")),
        cost=str(attrs.get("cost", "")),
        code=str(attrs.get("code", "")),
        setup=setup_code(attrs),
        checks=Checks(checks).records(),
        lead=str(attrs.get("lead", "")),
        terms=terms_in([*(str(attrs.get(name, "")) for name in ("question", "lead")), *SAID]),
        picture=json.loads(attrs["picture"]) if "picture" in attrs else None,
    )


def meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> Meta:
    """Build the ``meta`` trait from the data of a result of one text (no ``batch`` axis)."""
    attrs = dict(data.attrs)
    attrs.setdefault("d_vocab", vocabulary_rows(data))
    coords = {str(name): data[name].values for name in data.variables if name in META_NAMES}
    return meta_from(attrs, coords, checks, run)


META_NAMES = frozenset(
    {
        "point",
        "layer",
        "token",
        "input_id",
        "continues",
        "k",
        "tracked",
        "tracked_token",
        "heldout_kl",
        "heldout_uniform",
    }
)
"""Names of a result that `meta_from` reads; ``input_id`` may be a variable or a coordinate."""


def _values(coords: Mapping[str, Any], name: str) -> list[Any]:
    return np.asarray(coords[name]).tolist() if name in coords else []


def _tokens(coords: Mapping[str, Any]) -> list[MetaToken]:
    ids = _values(coords, "input_id")
    texts = _values(coords, "token") or [str(i) for i in ids]
    continues = _values(coords, "continues") or [False] * len(ids)
    return [
        MetaToken(id=int(i), text=str(text), cont=bool(cont))
        for i, text, cont in zip(ids, texts, continues, strict=True)
    ]


def _other(attrs: Mapping[str, Any]) -> MetaOther | None:
    if "other_kind" not in attrs:
        return None
    return MetaOther(
        kind=str(attrs["other_kind"]),
        label=str(attrs["other_label"]),
        tokens=[str(text) for text in json.loads(attrs["other_tokens"])],
    )


def _lenses(attrs: Mapping[str, Any], coords: Mapping[str, Any]) -> list[MetaLens]:
    """Return the lenses of a call that names any; of the logit lens alone there is nothing said."""
    told = json.loads(attrs.get("lenses", "[]"))
    known = np.atleast_2d(np.asarray(coords["heldout_kl"])) if "heldout_kl" in coords else None
    uniform = np.atleast_1d(coords.get("heldout_uniform", np.nan))
    return [
        MetaLens(
            name=str(lens["name"]),
            points=lens.get("points"),
            heldout=None if known is None or np.isnan(known[i]).all() else _numbers(known[i]),
            uniform=_numbers(uniform)[i] if i < len(uniform) else None,
        )
        for i, lens in enumerate(told)
    ]


def _against(attrs: Mapping[str, Any]) -> int:
    """Return which of several lenses the others are compared with."""
    names = [lens["name"] for lens in json.loads(attrs.get("lenses", "[]"))]
    return names.index(attrs["lens_against"]) if "lens_against" in attrs else 0


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _tracked(coords: Mapping[str, Any]) -> list[dict[str, Any]]:
    ids = _values(coords, "tracked")
    texts = _values(coords, "tracked_token") or [str(i) for i in ids]
    return [{"id": int(i), "text": str(t)} for i, t in zip(ids, texts, strict=True)]
