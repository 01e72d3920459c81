"""The ``meta`` trait of attention, for live views and frozen pages alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from layerlens.export.meta import MetaToken
from layerlens.export.pack import plain_wire
from layerlens.export.setup import setup_code
from layerlens.glossary import terms_in
from layerlens.result.attention import OTHER, AttentionData, prefix_of
from layerlens.result.checks import Check, Checks
from layerlens.result.roles import ROLE_ABOVE, ROLE_RULE, Role, roles_of

if TYPE_CHECKING:
    import xarray as xr

WIRES = {name: plain_wire(name, "float64") for name in ROLE_ABOVE}
"""What travels in frames: the shares of each head. Weights are asked for layer by layer."""

LEAD = (
    "Each row is a token that looks, each column a token that is looked at; the stronger the "
    "colour or the line, the more of what the head reads comes from there."
)

SAID = "head, query, key, pattern, key-value group, sink, value-weighted, norm-based, scores"
"""What the page says beside the lead."""

ROLE_TERMS = {
    "previous_token": "Looks at the token before.",
    "induction": "Looks at what followed an earlier occurrence of the same token.",
    "duplicate_token": "Looks at an earlier occurrence of the same token.",
    "sink_mass": "Looks at the first token.",
    "local": "Looks at the token itself and the three before it.",
    "delimiter": "Looks at separators, special tokens and punctuation after the first token.",
}


class MetaPart(TypedDict):
    """Attention of one kind between two rows of tokens."""

    tokens: list[MetaToken]
    key_tokens: list[MetaToken]
    layers: list[int]
    n_heads: int
    kv_groups: list[int]
    special: list[bool]


class AttentionMeta(MetaPart):
    """The ``meta`` trait."""

    run: int
    model: str
    model_type: str
    dtype: str
    n_layers: int
    notes: list[str]
    source: str
    question: str
    cost: str
    code: str
    setup: str
    checks: list[dict[str, Any]]
    parts: list[str]
    by_part: dict[str, MetaPart]
    weightings: list[str]
    weightings_possible: list[str]
    roles: list[Role]
    role_rule: str
    head_names: list[str]
    other: dict[str, Any] | None
    lead: str
    terms: dict[str, str]


def attention_meta(
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any],
    checks: Iterable[Check] = (),
    run: int = 1,
    roles: Iterable[Role] = (),
) -> AttentionMeta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    attrs : mapping
        Attributes as a result has them.
    coords : mapping
        Arrays by coordinate name, as `layerlens.result.attention.AttentionData.coords` gives them.
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.
    roles : iterable of Role
        From `roles_of`; empty until the run ends.

    Returns
    -------
    AttentionMeta
        Plain Python values only; fits into JSON.
    """
    parts = [str(part) for part in _json(attrs, "parts", ["self"])]
    held = {part: _part(coords, prefix_of(index)) for index, part in enumerate(parts)}
    words = ("model", "model_type", "dtype", "source", "question", "cost", "code")
    weightings = _json(attrs, "weightings", ["pattern"])
    meta: dict[str, Any] = {
        "run": run,
        **{name: str(attrs.get(name, "")) for name in words},
        "n_layers": int(attrs.get("n_layers", len(held[parts[0]]["layers"]))),
        "notes": [str(note) for note in _json(attrs, "notes", [])],
        "setup": setup_code(attrs),
        "checks": Checks(checks).records(),
        **held[parts[0]],
        "parts": parts,
        "by_part": held if len(parts) > 1 else {},
        "weightings": weightings,
        "weightings_possible": _json(attrs, "weightings_possible", weightings),
        "roles": list(roles),
        "role_rule": "" if attrs.get("given") else ROLE_RULE,
        "head_names": [str(name) for name in _json(attrs, "head_names", [])],
        "other": _other(attrs, coords),
        "lead": LEAD,
        "terms": {**terms_in([LEAD, SAID, str(attrs.get("question", ""))]), **ROLE_TERMS},
    }
    return cast(AttentionMeta, meta)


def attention_meta_of(
    data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1
) -> AttentionMeta:
    """Build the ``meta`` trait from the data of a result of one text (no ``batch`` axis)."""
    return attention_meta(data.attrs, AttentionData(data).coords(), checks, run, roles_of(data))


def _part(coords: Mapping[str, Any], prefix: str) -> MetaPart:
    def values(name: str) -> list[Any]:
        return np.asarray(coords[prefix + name]).tolist() if prefix + name in coords else []

    texts, keys = ([str(text) for text in values(name)] for name in ("token", "key_token"))
    ids = values("input_id") or [-1] * len(texts)
    cont = values("continues") or [False] * len(texts)
    # Of one and the same row of tokens queries and keys have the same ids.
    alike = keys == texts
    return MetaPart(
        tokens=_tokens(ids, texts, cont),
        key_tokens=_tokens(
            ids if alike else [-1] * len(keys), keys, cont if alike else [False] * len(keys)
        ),
        layers=[int(layer) for layer in values("layer")],
        n_heads=len(values("head")),
        kv_groups=[int(group) for group in values("kv_group")],
        special=[bool(one) for one in values("special")] or [False] * len(keys),
    )


def _tokens(ids: list[Any], texts: list[str], cont: list[Any]) -> list[MetaToken]:
    rows = zip(ids, texts, cont, strict=True)
    return [MetaToken(id=int(i), text=text, cont=bool(c)) for i, text, c in rows]


def _other(attrs: Mapping[str, Any], coords: Mapping[str, Any]) -> dict[str, Any] | None:
    if "other" not in attrs:
        return None
    words = {name: str(attrs.get(f"{OTHER}{name}", "")) for name in ("label", "model", "text")}
    return {**words, **_part(coords, OTHER)}


def _json(attrs: Mapping[str, Any], name: str, default: Any) -> Any:
    value = attrs.get(name, default)
    return json.loads(value) if isinstance(value, str) else value
