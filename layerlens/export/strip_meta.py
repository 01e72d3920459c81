"""What the strip needs to know beside the numbers: which arrays are rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from layerlens.export.answer_meta import AnswerMeta, answer_meta_of
from layerlens.export.meta import MetaToken
from layerlens.result.layers import OTHER
from layerlens.result.strip import Strip, strip_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Check


class StripMeta(AnswerMeta):
    """The ``meta`` trait of the strip; `theirs` are the tokens of a second text beside it."""

    strip: Strip
    theirs: list[MetaToken]


def strip_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> StripMeta:
    """Build the ``meta`` trait; see `layerlens.export.answer_meta.answer_meta_of`."""
    return with_strip(answer_meta_of(data, checks, run), data)


def with_strip(meta: Any, data: xr.Dataset) -> StripMeta:
    """Return the meta of an answer with what its strips are made of."""
    strip = strip_of(data)
    return cast(StripMeta, {**meta, "strip": strip, "theirs": _theirs(data, strip["items"])})


def _theirs(data: xr.Dataset, items: str) -> list[MetaToken]:
    """Return the tokens of the second text, where they are not those of the first."""
    if f"{OTHER}token" not in data.coords:
        return []
    found = {
        name: data[f"{OTHER}{name}" if f"{OTHER}{name}" in data.coords else name]
        for name in ("input_id", "token", "continues")
    }
    if any(values.dims != (items,) for values in found.values()):
        return []
    rows = zip(*(values.values.tolist() for values in found.values()), strict=True)
    return [MetaToken(id=int(i), text=str(t), cont=bool(c)) for i, t, c in rows]
