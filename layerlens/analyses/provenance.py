"""What a result says about how it was made."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
import xarray as xr

import layerlens
from layerlens.analyses.options import plain
from layerlens.analyses.parts import Parts

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def attributes(
    model: LensModel,
    tokens: Tokens,
    parts: Parts,
    *,
    options: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Attributes of a result; every value is a number or a string, lists and tables are JSON."""
    missing = parts.missing()
    rows = zip(tokens.texts, tokens.strings, strict=True)
    texts = ["".join(strings) if text is None else text for text, strings in rows]
    return {
        "model": model.name,
        "model_type": model.anatomy.family,
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_layers": model.n_layers,
        "d_vocab": model.d_vocab,
        "text": texts[0] if tokens.single else json.dumps(texts, ensure_ascii=False),
        "notes": json.dumps(list(tokens.notes), ensure_ascii=False),
        "options": json.dumps(plain(options), ensure_ascii=False),
        "seed": "none" if options.get("seed") is None else int(options["seed"]),
        "versions": json.dumps(versions()),
        "passes": math.nan,
        "seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": int(not missing),
        "missing": json.dumps(missing),
        "vocab": vocab(model, tokens, parts),
    }


def vocab(model: LensModel, tokens: Tokens, parts: Parts) -> str:
    """JSON table from every token id that occurs to its display string."""
    ids = parts.token_ids() | set(tokens.ids[tokens.mask].tolist())
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
