"""What the strip needs to know beside the numbers: which arrays are rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from layerlens.export.answer_meta import AnswerMeta, answer_meta_of
from layerlens.result.strip import Strip, strip_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Check


class StripMeta(AnswerMeta):
    """The ``meta`` trait of the strip."""

    strip: Strip


def strip_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> StripMeta:
    """Build the ``meta`` trait; see `layerlens.export.answer_meta.answer_meta_of`."""
    return with_strip(answer_meta_of(data, checks, run), data)


def with_strip(meta: Any, data: xr.Dataset) -> StripMeta:
    """Return the meta of an answer with what its strips are made of."""
    return cast(StripMeta, {**meta, "strip": strip_of(data)})
