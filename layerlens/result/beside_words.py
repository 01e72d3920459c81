"""What is said of two answers that lie beside each other: labels, attributes, the calls."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.result.layers import OTHER
from layerlens.result.result import Result

if TYPE_CHECKING:
    import xarray as xr

_TOLD = ("model", "load", "model_type", "dtype", "n_layers", "n_heads", "tokens_counted")


def about_other(attrs: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the attributes that say what stands beside a result."""
    found = {f"other_{name}": attrs[name] for name in _TOLD if name in attrs}
    return {**found, "other_label": label}


def vocabularies_differ(mine: xr.Dataset, theirs: xr.Dataset) -> bool:
    """Whether the same id is another token in two results."""
    one, two = (json.loads(data.attrs.get("vocab", "{}")) for data in (mine, theirs))
    sizes = {data.attrs.get("d_vocab") for data in (mine, theirs)}
    return len(sizes) > 1 or any(two[token] != one[token] for token in two if token in one)


def attributes_of_both(
    first: Result, second: Result, label: str, names: list[str]
) -> dict[str, Any]:
    """Return the attributes of both that are not the first's; `names` are the arrays of both."""
    one, two = first.data.attrs, second.data.attrs
    vocab = json.loads(one.get("vocab", "{}"))
    if not vocabularies_differ(first.data, second.data):
        vocab = json.loads(two.get("vocab", "{}")) | vocab
    gaps = [json.loads(attrs.get("missing", "{}")) for attrs in (one, two)]
    missing = gaps[0] | {OTHER + name: gap for name, gap in gaps[1].items()}
    notes = [note for attrs in (one, two) for note in json.loads(attrs.get("notes", "[]"))]
    notes = [*dict.fromkeys(notes), *_remarks(first, second, label)]
    found = {
        **about_other(two, label),
        **{
            f"other_{name}": two[name]
            for name in ("text", "options", "metric_words")
            if name in two
        },
        **{f"other_{name}": text for name, text in two.items() if name.endswith("_text")},
        "notes": json.dumps(notes, ensure_ascii=False),
        "vocab": json.dumps(vocab, ensure_ascii=False),
        "missing": json.dumps(missing),
        "complete": int(bool(one.get("complete", 1) and two.get("complete", 1))),
        "seconds": math.fsum(float(attrs.get("seconds", 0.0)) for attrs in (one, two)),
        "passes": math.fsum(float(attrs.get("passes", math.nan)) for attrs in (one, two)),
    }
    if "variables" in one:
        found["variables"] = json.dumps(names)
    # The bench has room for one answer; a grid lets choose among arrays.
    return {**found, "view": "grid"} if first.view == "patch" else found


def _remarks(first: Result, second: Result, label: str) -> list[str]:
    one, two = first.data.attrs, second.data.attrs
    found = [f"Names that begin with 'other.' are of {label}, those with 'change_' of the "
             "difference, second minus first."]  # fmt: skip
    words = [str(attrs.get("metric_words", "")) for attrs in (one, two)]
    if words[0] != words[1]:
        found.append(f"The metric is {words[0]} in the first and {words[1]} in the second.")
        return found
    for name in ("answer", "wrong"):
        tokens = [_token(attrs, name) for attrs in (one, two)]
        if tokens[0] != tokens[1]:
            said = f"The {name} token is {tokens[0]} in the first"
            found.append(f"{said} and {tokens[1]} in the second.")
    return found


def _token(attrs: Mapping[str, Any], name: str) -> str:
    """Return a token that an analysis has chosen, as it can be read."""
    token = attrs.get(name)
    if not isinstance(token, int | np.integer):
        return str(token)
    return repr(json.loads(attrs.get("vocab", "{}")).get(str(token), int(token)))


def label_of(first: Result, second: Result) -> str:
    """Return what sets the second apart."""
    one, two = first.data.attrs, second.data.attrs
    if _other_model(first, second):
        name = str(two.get("model", "the other model"))
        return f"{name} (other)" if name == one.get("model") else name
    texts = [name for name in two if (name == "text" or name.endswith("_text"))]
    for name in texts:
        if two[name] != one.get(name):
            return str(two[name]) if not str(two[name]).startswith("[") else "the other texts"
    options = [json.loads(attrs.get("options", "{}")) for attrs in (one, two)]
    changed = {name: value for name, value in options[1].items() if options[0].get(name) != value}
    return ", ".join(f"{name}={value!r}" for name, value in changed.items()) or "the second"


def _other_model(first: Result, second: Result) -> bool:
    if first.model is not None and second.model is not None:
        return first.model is not second.model
    return any(first.data.attrs.get(n) != second.data.attrs.get(n) for n in ("model", "load"))


def code_of_both(first: Result, second: Result, label: str) -> str:
    """Return the calls that make it again."""
    asked = second.code
    if _other_model(first, second):
        asked = asked.replace("(model, ", "(other, ", 1).replace("(model)", "(other)", 1)
    return f"first = {first.code}\nsecond = {asked}\nll.beside(first, second, label={label!r})"
