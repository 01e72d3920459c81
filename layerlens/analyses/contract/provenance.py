"""What a result says about how it was made."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
import xarray as xr

import layerlens
from layerlens.analyses.contract.options import plain
from layerlens.analyses.contract.parts import Parts
from layerlens.corpus.shown import few
from layerlens.corpus.texts import Texts
from layerlens.model.shown import shown

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def attributes(
    model: LensModel,
    tokens: Mapping[str, Tokens | Texts],
    parts: Parts,
    *,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    seconds: float,
    remarks: Sequence[str] = (),
    ended: bool = True,
) -> dict[str, Any]:
    """Attributes of a result; every value is a number or a string, lists and tables are JSON.

    Parameters
    ----------
    tokens
        By the name of the text; a corpus is named by the call that reads it. Where there are
        several, or one that is not called ``text``, each also has attributes of its own, see
        `named_texts`. None where only weights are looked at.
    given
        What the texts were given as.
    remarks
        What the analysis wants its reader to know.
    ended
        Whether it came to its end; else it is not complete, whatever was filled.
    """
    missing = parts.missing()
    first = _texts(next(iter(tokens.values()))) if tokens else ""
    plain_tokens = {name: t for name, t in tokens.items() if not isinstance(t, Texts)}
    said = [note for found in plain_tokens.values() for note in found.notes]
    notes = dict.fromkeys([*said, *remarks])
    return {
        **model.facts(),
        "text": first if isinstance(first, str) else json.dumps(first, ensure_ascii=False),
        "notes": json.dumps(list(notes), ensure_ascii=False),
        "options": json.dumps(plain(options), ensure_ascii=False),
        "seed": "none" if options.get("seed") is None else int(options["seed"]),
        "versions": json.dumps(versions()),
        "passes": math.nan,
        "seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": int(ended and not missing),
        "missing": json.dumps(missing),
        "vocab": vocab(model, plain_tokens.values(), parts),
        **({} if list(tokens) == ["text"] else named_texts(plain_tokens)),
        **several(plain_tokens),
        **calls(given, plain_tokens),
        **fed_picture(model, plain_tokens),
        **other_models(options),
    }


def several(tokens: Mapping[str, Tokens]) -> dict[str, str]:
    """Attribute that names the inputs under which several texts were given; none without any."""
    names = [name for name, given in tokens.items() if not given.single]
    return {"several": json.dumps(names)} if names else {}


def calls(given: Mapping[str, Any], tokens: Mapping[str, Tokens]) -> dict[str, str]:
    """Attribute with the calls of ``ll.texts`` that are shown instead of what they held.

    They are those of which a person could not read all, see `layerlens.corpus.shown.few`.
    """
    found = {
        name: given[name].code
        for name in tokens
        if isinstance(given[name], Texts) and few(given[name]) is None
    }
    return {"calls": json.dumps(found, ensure_ascii=False)} if found else {}


def other_models(options: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that say how the models among the options are loaded: ``<option>_load``.

    Of several models under one name, the JSON list of it.
    """
    found = {}
    for name, value in options.items():
        several = isinstance(value, list | tuple)
        calls = [getattr(one, "load_code", None) for one in (value if several else [value])]
        if calls and all(isinstance(call, str) for call in calls):
            found[f"{name}_load"] = json.dumps(calls) if several else str(calls[0])
    return found


def fed_picture(model: LensModel, tokens: Mapping[str, Tokens]) -> dict[str, str]:
    """Attribute with the first picture or sound that was fed; none where texts are."""
    found = shown(model, next(iter(tokens.values()))) if tokens else None
    return {} if found is None else {"picture": json.dumps(found)}


def named_texts(tokens: Mapping[str, Tokens]) -> dict[str, str]:
    """Attributes that say what each of several texts was.

    Returns
    -------
    dict
        ``inputs``, the JSON list of their names, and for each name ``<name>_text``, and as JSON
        lists ``<name>_ids``, ``<name>_tokens`` (strings) and ``<name>_continues``; lists of
        lists, without padding, where several texts were given under one name.
    """
    found = {"inputs": json.dumps(list(tokens))}
    for name, given in tokens.items():
        texts = _texts(given)
        lists: dict[str, Any] = {
            "ids": given.ids.tolist(),
            "tokens": given.strings,
            "continues": given.continues,
        }
        if not isinstance(texts, str):
            found[f"{name}_text"] = json.dumps(texts, ensure_ascii=False)
        else:
            found[f"{name}_text"] = texts
        for what, rows in lists.items():
            real = [
                [value for value, keep in zip(row, mask, strict=True) if keep]
                for row, mask in zip(rows, given.mask.tolist(), strict=True)
            ]
            kept: Any = real[0] if given.single else real
            found[f"{name}_{what}"] = json.dumps(kept, ensure_ascii=False)
    return found


def _texts(tokens: Tokens | Texts) -> str | list[str]:
    if isinstance(tokens, Texts):
        return tokens.code
    rows = zip(tokens.texts, tokens.strings, strict=True)
    texts = ["".join(strings) if text is None else text for text, strings in rows]
    return texts[0] if tokens.single else texts


def vocab(model: LensModel, texts: Iterable[Tokens], parts: Parts) -> str:
    """JSON table from every token id that occurs to its display string.

    Where a head answers classes, the numbers are those of classes, and not of what was fed.
    """
    ids = parts.token_ids()
    for tokens in texts if model.answers_words else ():
        ids |= set(tokens.ids[tokens.mask].tolist())
    return json.dumps({i: model.token_string(i) for i in sorted(ids)}, ensure_ascii=False)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part.

    Taken from the modules themselves: a distribution's version leaves out torch's build
    (``+cpu``), and the distribution called layerlens is another one.
    """
    modules = (layerlens, torch, transformers, np, xr)
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in modules},
    }
