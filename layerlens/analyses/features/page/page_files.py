"""Pages of features as circuit-tracer's and Neuronpedia's tools keep them: one JSON file each.

``examples_quantiles`` holds the strongest examples ("Top activations") and some of each interval of
strengths ("Subsample Interval 0" and on, the strongest first), each with its tokens, the feature at
each (``tokens_acts_list``) and which of them it is about (``train_token_ind``); ``top_logits`` and
``bottom_logits`` the tokens that it raises and lowers; ``histogram`` how many tokens have it by
strength; ``quantile_values`` where the intervals end, from ``act_min`` to ``act_max``;
``activation_frequency`` the share of tokens. The names are those files'. That the histogram counts
tokens in bins of one width from ``act_min`` on, and the fields ``histogram_max``, ``firings``,
``tokens_counted`` and ``density_rank``, which other readers pass over, are ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from layerlens.errors import InputError, ResultError
from layerlens.result.files import as_path, checked_path, read_bytes, write_bytes
from layerlens.result.result import Result

TOP, INTERVAL = "Top activations", "Subsample Interval {}"
CLOSE = 1e-5
"""How far what a file says twice may be apart, as a share."""


def export_feature(page: Result, path: str | os.PathLike[str], *, transcoder_id: str = "") -> Path:
    """Write the page of a feature as a JSON file of circuit-tracer's form.

    Parameters
    ----------
    page
        Of ``ll.feature``.
    path
        Of the file; ends in ``.json``.
    transcoder_id
        What its dictionary is called there; by default the model's name and the site.

    Raises
    ------
    ResultError
        It is no page of a feature, or the file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> page = ll.feature(model, texts, sae, int(sae["density"].argmax()), k=2, bands=2)
    >>> again = ll.import_feature(ll.export_feature(page, "feature.json"))
    >>> int(again["count"].sum()) == int(page.data.firings)
    True
    """
    if page.analysis != "feature":
        raise ResultError(
            f"A result of {page.analysis} is no page of a feature: give ll.feature's."
        )
    data, target = page.data, checked_path(path, ".json")
    names = {int(i): name for i, name in json.loads(data.attrs["vocab"]).items()}
    layers = len(data.layer) if "layer" in data.dims else 1
    ends = [*data["band_from"].values[::-1].tolist(), float(data.largest)]
    content = {
        "transcoder_id": transcoder_id or f"{data.attrs['model']} {data.attrs['site']}",
        "index": int(data.attrs["number"]),
        "examples_quantiles": list(_quantiles(data, names)),
        **_ends(data, names),
        "act_min": 0.0,
        "act_max": float(data.largest),
        "quantile_values": ends,
        "histogram": data["count"].values.tolist(),
        "histogram_max": float(data["bin_top"].values[-1]),
        "activation_frequency": float(data.density),
        "firings": int(data.firings),
        "tokens_counted": int(data.counted) * layers,
        "density_rank": float(data.sparser),
    }
    return write_bytes(target, json.dumps(content, ensure_ascii=False, indent=1).encode())


def import_feature(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read the page of a feature that `export_feature`, or a tool for circuit-tracer, wrote.

    Parameters
    ----------
    path
        The JSON file.

    Returns
    -------
    Dataset
        ``activation``, ``group`` (0: the strongest) and ``place`` (which word it is about) along
        ``example``; ``word`` and ``context_activation`` along ``example`` and ``offset``, "" and
        NaN beyond the text; ``count`` along ``bin``, with ``bin_top`` where the file says it;
        ``band_end`` along ``interval``; ``raised`` and ``lowered``; and the numbers ``number``,
        ``largest``, ``density``, with ``firings`` and ``counted`` where the file has them.

    Raises
    ------
    InputError
        It is no page of a feature, or says two things that do not agree: intervals that do not
        part what lies between the smallest and the largest activation, a histogram that does not
        add up to the firings, or a frequency that is not their share.
    ResultError
        The file cannot be read.

    Examples
    --------
    >>> import json, pathlib
    >>> import layerlens as ll
    >>> example = {"tokens": ["a", " b"], "tokens_acts_list": [0.0, 2.0], "train_token_ind": 1}
    >>> told = {"index": 7, "act_min": 0.0, "act_max": 2.0, "quantile_values": [1.0, 2.0],
    ...         "histogram": [3, 1], "activation_frequency": 0.1, "top_logits": [" c"],
    ...         "bottom_logits": [], "examples_quantiles": [
    ...             {"quantile_name": "Top activations", "examples": [example]}]}
    >>> _ = pathlib.Path("feature.json").write_text(json.dumps(told))
    >>> page = ll.import_feature("feature.json")
    >>> page["word"].values.tolist(), float(page["activation"][0])
    ([['a', ' b']], 2.0)
    """
    place = as_path(path)
    try:
        told = json.loads(read_bytes(place))
        data = _page(told)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"'{place}' is no JSON: give the page of a feature.") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"'{place}' is no page of a feature, for a part is missing or misshapen ({error}): "
            "give a file of circuit-tracer's form."
        ) from error
    _agree(place, told, data)
    return data


def _quantiles(data: xr.Dataset, names: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """The examples of each group, without the places that no example took."""
    seen: set[tuple[int, int]] = set()
    groups = data["group"].values
    for group in np.unique(groups).tolist():
        found = []
        for i in np.flatnonzero((groups == group) & (data["position"].values >= 0)).tolist():
            where = int(data["text"][i]), int(data["position"][i])
            found.append(_example(data.isel(example=i), names, repeated=where in seen))
            seen.add(where)
        yield {
            "quantile_name": INTERVAL.format(group - 1) if group else TOP,
            "examples": found,
        }


def _example(one: xr.Dataset, names: Mapping[int, str], *, repeated: bool) -> dict[str, Any]:
    ids, values = one["context_token"].values, one["context_activation"].values
    inside = np.flatnonzero(ids >= 0)
    middle = len(ids) // 2
    return {
        "tokens": [names[int(i)] for i in ids[inside]],
        "tokens_acts_list": np.nan_to_num(values[inside]).tolist(),
        "train_token_ind": int(np.flatnonzero(inside == middle)[0]),
        "is_repeated_datapoint": repeated,
    }


def _ends(data: xr.Dataset, names: Mapping[int, str]) -> dict[str, list[str]]:
    """The tokens that it raises and lowers; none where it has no direct effect on them."""
    if "effect_token" not in data:
        return {"top_logits": [], "bottom_logits": []}
    up, down = ([names[int(i)] for i in side if i >= 0] for side in data["effect_token"].values)
    return {"top_logits": up, "bottom_logits": down}


def _page(told: Mapping[str, Any]) -> xr.Dataset:
    rows = [
        (group, one)
        for group, quantile in enumerate(told["examples_quantiles"])
        for one in quantile["examples"]
    ]
    longest = max((len(one["tokens"]) for _, one in rows), default=0)
    words = np.full((len(rows), longest), "", dtype=object)
    values = np.full((len(rows), longest), np.nan)
    places = np.array([int(one["train_token_ind"]) for _, one in rows], dtype=np.int64)
    for row, (_, one) in enumerate(rows):
        words[row, : len(one["tokens"])] = one["tokens"]
        values[row, : len(one["tokens"])] = one["tokens_acts_list"]
    arrays: dict[str, Any] = {
        "group": ("example", np.array([group for group, _ in rows], dtype=np.int64)),
        "place": ("example", places),
        "activation": ("example", values[np.arange(len(rows)), places]),
        "word": (("example", "offset"), words),
        "context_activation": (("example", "offset"), values),
        "count": ("bin", np.array(told["histogram"])),
        "band_end": ("interval", np.array(told["quantile_values"], dtype=np.float64)),
        "raised": ("order_up", np.array(told["top_logits"], dtype=object)),
        "lowered": ("order_down", np.array(told["bottom_logits"], dtype=object)),
        "number": int(told["index"]),
        "smallest": float(told["act_min"]),
        "largest": float(told["act_max"]),
        "density": float(told["activation_frequency"]),
    }
    arrays |= {
        ours: int(told[name])
        for ours, name in (("firings", "firings"), ("counted", "tokens_counted"))
        if name in told
    }
    if "histogram_max" in told:
        bins = len(told["histogram"])
        arrays["bin_top"] = ("bin", np.arange(1, bins + 1) * float(told["histogram_max"]) / bins)
    attributes = {"transcoder_id": str(told.get("transcoder_id", ""))}
    return xr.Dataset(arrays, attrs=attributes)


def _agree(place: Path, told: Mapping[str, Any], data: xr.Dataset) -> None:
    """Refuse a file that says two things which do not agree."""
    low, high = float(data["smallest"]), float(data["largest"])
    ends = data["band_end"].values
    room = CLOSE * max(1.0, abs(high))
    if len(ends) and ((np.diff(ends) < 0).any() or not low - room <= ends[0] <= high + room):
        raise InputError(f"The intervals of '{place}' do not rise from {low:g} to {high:g}.")
    if len(ends) and abs(ends[-1] - high) > room:
        raise InputError(f"The last interval of '{place}' ends at {ends[-1]:g}, not at {high:g}.")
    if "firings" not in told:
        return
    firings, counted = int(data["firings"]), int(data["counted"])
    if int(data["count"].sum()) != firings:
        raise InputError(
            f"The histogram of '{place}' adds up to {int(data['count'].sum())}, and it says "
            f"{firings} firings."
        )
    if abs(float(data["density"]) * counted - firings) > CLOSE * max(1, firings):
        raise InputError(
            f"'{place}' says {firings} firings of {counted} tokens, and a frequency of "
            f"{float(data['density']):g}."
        )
