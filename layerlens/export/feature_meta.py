"""What the page of a feature needs to know beside the numbers: which feature, where, of what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict, cast

from layerlens.export.answer_meta import AnswerMeta, answer_meta_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Check


class MetaFeature(TypedDict):
    """A feature: its number, and the site and layers that its dictionary reads.

    `groups` says of each example whether it is one of the strongest (0) or of which band (from 1).
    """

    number: int
    site: str
    layers: list[int]
    groups: list[int]
    strengths: list[float]


class FeatureMeta(AnswerMeta):
    """The ``meta`` trait of the page of a feature."""

    feature: MetaFeature


def feature_meta_of(data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1) -> FeatureMeta:
    """Build the ``meta`` trait; see `layerlens.export.answer_meta.answer_meta_of`."""
    return with_feature(answer_meta_of(data, checks, run), data)


def with_feature(meta: Any, data: xr.Dataset) -> FeatureMeta:
    """Return the meta of an answer with which feature it is about."""
    found = MetaFeature(
        number=int(data.attrs["number"]),
        site=str(data.attrs["site"]),
        layers=json.loads(data.attrs["dictionary_layers"]),
        groups=[int(group) for group in data["group"].values],
        strengths=[round(float(one), 6) for one in data["strength"].values],
    )
    return cast(FeatureMeta, {**meta, "feature": found})
