"""Every analysis that is installed, by name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Analysis
    from layerlens.analyses.contract.estimate import Estimate
    from layerlens.model.lensmodel import LensModel

_ANALYSES: dict[str, Analysis] = {}


def register(analysis: Analysis) -> Analysis:
    """Add an analysis under its name; one that is defined again takes its own place.

    Raises
    ------
    InputError
        When another analysis has this name.
    """
    known = _ANALYSES.get(analysis.name)
    if known is not None and known.place != analysis.place:
        raise InputError(
            f"Two analyses are called {analysis.name!r}, in {known.place} and in "
            f"{analysis.place}: give one of them another name."
        )
    _ANALYSES[analysis.name] = analysis
    return analysis


@cache
def _discover() -> None:
    package = importlib.import_module("layerlens.analyses")
    for module in pkgutil.walk_packages(package.__path__, "layerlens.analyses."):
        importlib.import_module(module.name)


def known() -> dict[str, Analysis]:
    """Analyses that are registered so far, by name; nothing is imported."""
    return dict(_ANALYSES)


def get(name: str) -> Analysis:
    """Return the analysis of this name.

    Raises
    ------
    InputError
        When there is none; names the nearest one.
    """
    _discover()
    if name not in _ANALYSES:
        raise nearest(name, sorted(_ANALYSES), "Analysis")
    return _ANALYSES[name]


def names() -> list[str]:
    """Names of all analyses, in alphabetical order."""
    _discover()
    return sorted(_ANALYSES)


def estimate(name: str, model: LensModel, *texts: Any, **options: Any) -> Estimate:
    """Estimate passes, seconds and bytes of ``ll.<name>(model, *texts, **options)``."""
    return get(name).estimate(model, *texts, **options)
