"""What a finished result says to a view that takes it up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from layerlens.export.meta import meta_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract import About
    from layerlens.result import Result


def lens_meta(result: Result, data: xr.Dataset, run: int, about: About | None) -> dict[str, Any]:
    """Return the ``meta`` trait of a result.

    `data` are those of one text, `about` what is known of the analysis where there is a model.
    """
    meta = dict(meta_of(data, result.checks, run))
    if about is not None:
        meta |= {"question": about.question, "source": about.source, "cost": about.cost}
    return meta


def options_of(data: xr.Dataset) -> dict[str, Any]:
    """Return the options of a result that say something: neither None nor empty."""
    options = json.loads(data.attrs.get("options", "{}"))
    return {name: value for name, value in options.items() if value not in (None, [], {}, "")}


def text_of(data: xr.Dataset, text: int) -> str | list[int]:
    """Return the text that a result is about, or its token ids where it was given as ids."""
    from layerlens.result.select import one_text

    written = str(data.attrs.get("text", ""))
    if "batch" in data.dims:
        found = json.loads(written)[text]
    else:
        found = None if written == "[null]" else written
    if found is not None:
        return str(found)
    return [int(i) for i in one_text(data, text)["input_id"].values]
