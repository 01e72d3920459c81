"""A result in a few lines of text: the same lines for the same numbers, everywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.result import Result

_TEXT_LENGTH = 60
_TOP = 3


def summary(result: Result) -> str:
    """Return what a result is, what it says at the end, and whether its checks passed.

    Nothing in it depends on the time, on addresses or on speed.
    """
    data, attrs = result.data, result.data.attrs
    facts = ", ".join(str(attrs[name]) for name in ("model_type", "dtype") if attrs.get(name))
    model = str(attrs.get("model", "")) + (f" ({facts})" if facts else "")
    lines = [f"{result.analysis}: {model}" if model else result.analysis]
    lines += _texts(data)
    sizes = " x ".join(f"{size} {name}" for name, size in data.sizes.items())
    lines.append(f"axes: {sizes}")
    lines.append(f"data: {', '.join(map(str, data.data_vars))}")
    lines += _answer(data)
    lines.append(f"checks: {_verdict(result)}")
    return "\n".join(lines)


def _texts(data: xr.Dataset) -> list[str]:
    """Return what was asked about: the text, or each of several by its name."""
    names = json.loads(data.attrs.get("inputs", "[]"))
    texts = {name: data.attrs.get(f"{name}_text") for name in names}
    texts = texts or {"text": data.attrs.get("text")}
    return [f"{name}: {_one_or_more(data, str(text))}" for name, text in texts.items() if text]


def _one_or_more(data: xr.Dataset, text: str) -> str:
    if "batch" not in data.dims or not text.startswith("["):
        return _short(text)
    several = json.loads(text)
    more = f" and {len(several) - 1} more" if len(several) > 1 else ""
    return f"{_short(str(several[0]))}{more}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 1] + "…")


def _answer(data: xr.Dataset) -> list[str]:
    """Return the best tokens at the last point of a lens of one text, where the model answers.

    That is the last position that is measured against an answer: the last one of a text that goes
    on, the class token of a classifier.
    """
    if not {"point", "position", "k"} <= set(data.dims) or "batch" in data.dims:
        return []
    if not {"token_id", "probability"} <= set(data.data_vars):
        return []
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    # Through whatever lens: at the last point all are the model's own answer.
    targets = data["target_id"].values if "target_id" in data else np.array([])
    measured = np.flatnonzero(targets >= 0)
    place = int(measured[-1]) if len(measured) else -1
    last = data.isel(point=-1, position=place).isel(lens=0, missing_dims="ignore")
    ids = last["token_id"].values[:_TOP].tolist()
    chances = last["probability"].values[:_TOP].tolist()
    best = [
        f"{vocab.get(str(token), f'[{token}]')!r} {chance:.2f}"
        for token, chance in zip(ids, chances, strict=True)
        if np.isfinite(chance)
    ]
    word = "next" if place in (-1, data.sizes["position"] - 1) else "answer"
    return [f"{word}: {', '.join(best)}"] if best else []


def _verdict(result: Result) -> str:
    failed = [check.name for check in result.checks if not check.ok]
    if not result.checks:
        return "none"
    if not failed:
        return f"{len(result.checks)} ok"
    return f"{len(failed)} of {len(result.checks)} not ok: {', '.join(failed)}"
