"""The ``meta`` trait of an answer with axes of any kind: grids, curves, lines, single numbers.

It has the shape of that of measured layers (`layerlens.export.metrics_meta`), and says besides how
each array is drawn, what its colours mean, and which tokens its positions are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

from layerlens.export.meta import MetaToken
from layerlens.export.metrics_meta import MetaAxis, MetricsMeta, other_of
from layerlens.export.patch_meta import tokens_of
from layerlens.export.setup import setup_code
from layerlens.glossary import terms_in
from layerlens.result.axes import is_named, role_of
from layerlens.result.checks import Check, Checks
from layerlens.result.layers import MOST_LINES, OTHER, RUN, Array, along_of, ends_of
from layerlens.result.select import answer_names

if TYPE_CHECKING:
    import xarray as xr

_WORDS = ("model", "model_type", "dtype", "source", "question", "cost", "code", "lead", "opens",
          "finds")  # fmt: skip
_COUNTS = ("n_layers", "n_heads", "d_vocab", "skip_first")
_STATE = re.compile(r"(\d+)_\w+")


class AnswerAxis(MetaAxis):
    """One axis; `role` is ``layer``, ``head``, ``position`` or "", `tokens` names the input."""

    role: str
    tokens: str


class AnswerArray(Array):
    """One array: the axes that it is drawn over, and which integer stands for no value.

    A grid has one axis `down` (upwards from its first entry) and one `across`, and shows one entry
    of a `third` where there is one. Lines have their x axis `across`, and one line for each entry
    `down`. "" where there is no such axis. A chart of one that is `unclipped` has room for all.
    """

    down: str
    across: str
    third: str
    low: str
    high: str
    missing: int | None
    unclipped: bool


class Scale(TypedDict):
    """What colours mean: around a `centre` or from one end; up to `limit`, or the largest."""

    kind: str
    centre: float | None
    limit: float | None
    unit: str


class AnswerMeta(MetricsMeta):
    """The ``meta`` trait."""

    analysis: str
    view: str
    tokens: dict[str, list[MetaToken]]
    scales: dict[str, Scale]
    opens: str
    finds: str
    doses: list[dict[str, Any]]


def answer_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> AnswerMeta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text of a result of any analysis; while a run is young, the same without
        numbers.
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.

    Returns
    -------
    AnswerMeta
        Plain Python values only; fits into JSON.
    """
    attrs = data.attrs
    tokens = _tokens(data)
    arrays = answer_arrays(data)
    dims = dict.fromkeys(dim for array in arrays for dim in array["dims"])
    described = {array["name"]: _described(data, array) for array in arrays}
    meta: dict[str, Any] = {
        "run": run,
        "analysis": str(attrs.get("analysis", "")),
        "view": str(attrs.get("view", "")),
        **{name: str(attrs.get(name, "")) for name in _WORDS},
        **{name: int(attrs.get(name, 0)) for name in _COUNTS},
        "notes": [str(note) for note in json.loads(attrs.get("notes", "[]"))],
        "checks": Checks(checks).records(),
        "setup": setup_code(attrs),
        "metrics": [],
        "described": described,
        "n_texts": int(attrs.get("texts", 1)),
        "n_tokens": int(attrs.get("tokens", 0)),
        "n_counted": None,
        "axes": {dim: _axis(data, dim, tokens) for dim in dims},
        "arrays": arrays,
        "clusters": {},
        "other": other_of(attrs),
        "tokens": tokens,
        "scales": {array["name"]: _scale(data, array) for array in arrays},
        "doses": _doses(data),
    }
    meta["terms"] = terms_in(_said(meta))
    return cast(AnswerMeta, meta)


def fields_of(data: xr.Dataset) -> dict[str, str]:
    """Return each text of a result by the name of its input, as a field shows it."""
    attrs = data.attrs
    several = json.loads(attrs.get("several", "[]"))
    calls = json.loads(attrs.get("calls", "{}"))
    found = {}
    for name in json.loads(attrs.get("inputs", '["text"]')):
        written = str(attrs.get(f"{name}_text", attrs.get("text", "")))
        if name in several:
            written = calls.get(name) or one_a_line(json.loads(written))
        found[str(name)] = written
    return found


def one_a_line(texts: Iterable[str]) -> str:
    """Return several texts as one, a line each; a line end inside one is a ⏎."""
    return "\n".join(str(text).replace("\n", "⏎") for text in texts)


def answer_arrays(data: xr.Dataset) -> list[AnswerArray]:
    """Return the arrays of numbers or tokens, without those that are ends of an interval."""
    names = answer_names(data)
    ends = {end for name in names for end in ends_of(data, name) or ()}
    return [_array(data, name) for name in names if name not in ends and name != "input_id"]


def _array(data: xr.Dataset, name: str) -> AnswerArray:
    array = data[name]
    dims = [str(dim) for dim in array.dims]
    kind, down, across, third = _drawn(data, dims)
    low, high = ("", "") if f"{name}_mean" in data else ends_of(data, name) or ("", "")
    token = bool(array.attrs.get("is_token"))
    whole = array.dtype.kind != "f"
    return AnswerArray(
        name=name,
        metric=name.removeprefix(OTHER),
        long_name=str(array.attrs.get("long_name", name)),
        units=str(array.attrs.get("units", "1")),
        dims=dims,
        dtype="token" if token else "int" if whole else "float",
        interval=bool(low),
        kind=kind,
        other=name.startswith(OTHER),
        down=down,
        across=across,
        third=third,
        low=low,
        high=high,
        missing=int(array.attrs.get("missing", -1)) if whole else None,
        unclipped=bool(array.attrs.get("unclipped")),
    )


def _drawn(data: xr.Dataset, dims: list[str]) -> tuple[str, str, str, str]:
    """Return how an array is drawn, and its axes down, across and third."""
    roles = [role_of(data, dim) for dim in dims]
    if not dims or len(dims) > 3:
        return "table" if dims else "scalar", "", "", ""
    if len(dims) == 1:
        return "curve" if roles == ["layer"] else "profile", "", dims[0], ""
    third = ""
    if len(dims) == 3:
        third = dims[2] if roles[0] == "layer" else dims[0]
        dims = [dim for dim in dims if dim != third]
    first, second = dims
    if not third and second == f"{first}_other":
        return "matrix", first, second, ""
    if not third and [first, second] == ["layer", "head"]:
        return "heads", first, second, ""
    layers = [dim for dim in dims if role_of(data, dim) == "layer"]
    if (
        not third
        and len(layers) == 1
        and str(data.attrs.get("view")) in ("curves", "panels", "scatter")
    ):
        [other] = [dim for dim in dims if dim not in layers]
        if other == RUN and along_of(dims, [data.sizes[dim] for dim in dims]) == RUN:
            return "lines", layers[0], RUN, ""
        if data.sizes[other] <= MOST_LINES and role_of(data, other) != "position":
            return "lines", other, layers[0], ""
    if layers == [second]:  # layers go upwards, whatever the order
        first, second = second, first
    return "grid", first, second, third


def _axis(data: xr.Dataset, dim: str, tokens: Mapping[str, list[MetaToken]]) -> AnswerAxis:
    role = role_of(data, dim)
    return AnswerAxis(
        size=data.sizes[dim],
        labels=_labels(data, dim),
        numbers=_numbers(data, dim, role),
        long_name=dim.removeprefix(OTHER).removesuffix("_other").replace("_", " "),
        named=is_named(data, dim),
        role=role,
        tokens=_input_along(data, dim, tokens),
    )


def _labels(data: xr.Dataset, dim: str) -> list[str]:
    """Return the words of an axis: its own, else its tokens, else other words, else numbers."""
    words = [
        str(name)
        for name, values in data.coords.items()
        if values.dims == (dim,) and values.dtype.kind in "UO"
    ]
    words.sort(key=lambda name: (name != dim, name != "token"))
    name = words[0] if words else dim
    if name not in data.coords:
        return [str(index) for index in range(data.sizes[dim])]
    return [str(label) for label in data[name].values.tolist()]


def _numbers(data: xr.Dataset, dim: str, role: str) -> list[int] | None:
    """Return the layer, head or position of each entry; None where entries are none of these."""
    for name in (f"{dim}_layer", dim):
        if name in data.coords and data[name].dtype.kind in "iu":
            return [int(number) for number in data[name].values.tolist()]
    if role != "layer" or dim not in data.coords:
        return None
    states = [_STATE.fullmatch(str(label)) for label in data[dim].values.tolist()]
    return [-1 if state is None else int(state.group(1)) for state in states]


def _tokens(data: xr.Dataset) -> dict[str, list[MetaToken]]:
    """Return the tokens of each text by the name of the input, as far as a result holds them."""
    attrs = data.attrs
    names = [str(name) for name in json.loads(attrs.get("inputs", "[]"))]
    found = {name: tokens_of(attrs, name) for name in names if _one_text(attrs, name)}
    if found or "input_id" not in data.variables or data["input_id"].dims != ("position",):
        return found
    columns = {name: data[name].values.tolist() for name in ("input_id", "token", "continues")
               if name in data.variables and data[name].dims == ("position",)}  # fmt: skip
    ids = columns["input_id"]
    texts = columns.get("token", [str(i) for i in ids])
    continues = columns.get("continues", [False] * len(ids))
    rows = zip(ids, texts, continues, strict=True)
    return {"text": [MetaToken(id=int(i), text=str(t), cont=bool(c)) for i, t, c in rows]}


def _one_text(attrs: Mapping[str, Any], name: str) -> bool:
    ids = json.loads(attrs.get(f"{name}_ids", "[]"))
    return bool(ids) and not isinstance(ids[0], list)


def _input_along(data: xr.Dataset, dim: str, tokens: Mapping[str, list[MetaToken]]) -> str:
    """Return the name of the input whose tokens lie along an axis; "" for none."""
    if role_of(data, dim) != "position" or not tokens:
        return ""
    if "input_id" not in data.variables or data["input_id"].dims != (dim,):
        return next(iter(tokens)) if len(tokens) == 1 else ""
    along = data["input_id"].values.tolist()
    places = data[dim].values.tolist() if dim in data.coords else list(range(len(along)))
    for name, row in tokens.items():
        if max(places, default=0) < len(row):
            if [row[place]["id"] for place in places] == along:
                return name
        elif [token["id"] for token in row] == along:
            return name
    return ""


def _scale(data: xr.Dataset, array: AnswerArray) -> Scale:
    name = array["name"]
    own = name.removesuffix("_mean")
    signed = any(data[each].attrs.get("signed") for each in (name, own) if each in data)
    units = array["units"]
    return Scale(
        kind="diverging" if signed else "sequential",
        centre=0.0 if signed else None,
        limit=1.0 if name.removeprefix(OTHER).startswith("recovered") else None,
        unit="" if units == "1" else units,
    )


def _doses(data: xr.Dataset) -> list[dict[str, Any]]:
    """Return the sliders: along an axis that is there, or of an option with its value `now`."""
    options = json.loads(data.attrs.get("options", "{}"))
    found = []
    for dose in json.loads(data.attrs.get("doses", "[]")):
        now = options.get(dose["option"])
        if not dose["dim"]:
            values = sorted({*dose["values"], *([now] if isinstance(now, int | float) else [])})
            found.append({**dose, "values": values, "now": now})
        elif dose["dim"] in data.coords:
            found.append({**dose, "values": data[dose["dim"]].values.tolist(), "now": None})
    return found


def _described(data: xr.Dataset, array: AnswerArray) -> dict[str, str]:
    about = data[array["name"]].attrs
    return {
        "name": array["name"],
        "long_name": array["long_name"],
        "question": str(data.attrs.get("question", "")),
        "formula": str(about.get("formula", "")),
        "units": array["units"],
        "source": str(about.get("source", data.attrs.get("source", ""))),
    }


def _said(meta: Mapping[str, Any]) -> list[str]:
    """Return every sentence of the picture, in which terms are looked for."""
    described = [words[key] for words in meta["described"].values()
                 for key in ("name", "long_name", "formula", "units")]  # fmt: skip
    axes = [axis["long_name"] for axis in meta["axes"].values()]
    return [meta["question"], meta["lead"], *described, *axes, *meta["notes"]]
