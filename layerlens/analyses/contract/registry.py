"""Every analysis that is installed, by name."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from layerlens.analyses.contract.asking import Analysis
from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from layerlens.analyses.contract.estimate import Estimate
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.plan import Plan
    from layerlens.model.runs import Runs

PLANNED = ("tokens", "dtype", "trust_remote_code")
"""What can be said of a model that is not loaded."""

UNLOADED = ("dtype", "trust_remote_code")
"""Those of them that go with an analysis."""

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


def get(analysis: str | Analysis) -> Analysis:
    """Return the analysis of this name; one that is given itself is looked up by its own.

    Raises
    ------
    InputError
        When there is none, with the nearest one; or it is neither a name nor an analysis.
    """
    if not isinstance(analysis, str | Analysis):
        raise InputError(
            f"Expected the name of an analysis, or one such as ll.ablate_sweep; "
            f"got {analysis!r:.60}."
        )
    _discover()
    name = analysis if isinstance(analysis, str) else analysis.name
    if name not in _ANALYSES:
        raise nearest(name, sorted(_ANALYSES), "Analysis", "ll.analyses()")
    return _ANALYSES[name]


def names() -> list[str]:
    """Names of all analyses, in alphabetical order."""
    _discover()
    return sorted(_ANALYSES)


@overload
def estimate(
    analysis: str | Analysis,
    model: LensModel | Runs | str | os.PathLike[str] | PreTrainedConfig,
    *texts: Any,
    **options: Any,
) -> Estimate: ...


@overload
def estimate(analysis: str | os.PathLike[str] | PreTrainedConfig, **options: Any) -> Plan: ...


def estimate(
    analysis: str | os.PathLike[str] | Analysis | PreTrainedConfig,
    model: LensModel | Runs | str | os.PathLike[str] | PreTrainedConfig | None = None,
    *texts: Any,
    **options: Any,
) -> Estimate | Plan:
    """Estimate passes, seconds and bytes of ``analysis(model, *texts, **options)``.

    The model need not be loaded: of a hub id, a folder or a configuration in its place only the
    configuration is read, where its parts are is seen on a small model of the same make, and the
    result says that nothing was proven. With such a thing in the place of the analysis: what that
    model itself would take, from its configuration and the headers of its files.

    Parameters
    ----------
    analysis
        Its name, or the analysis itself, such as ``ll.early_exit``; or where a model is that is
        not loaded, or its configuration.
    model, *texts, **options
        As the analysis takes them. Of a model that is not loaded besides ``dtype`` and
        ``trust_remote_code``, as of `ll.load`; of such a one alone also ``tokens`` (of one pass,
        512).

    Returns
    -------
    Estimate or Plan
        Passes and bytes are counted; the seconds follow from how fast this machine is. Of a model
        that is not loaded the `layerlens.model.plan.Plan`.

    Raises
    ------
    InputError
        There is no such analysis, it cannot be estimated, or a text or an option does not fit.
    ModelError
        There is no such model; or it is not loaded, and to count would take its weights.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.estimate("logit_lens", model, "cat dog owl cat").passes
    1
    >>> ll.estimate(ll.early_exit, model, ["cat dog owl cat", "fox bee fox"]).passes
    1
    >>> unloaded = ll.estimate("logit_lens", "toy:induction", "cat dog owl cat")
    >>> unloaded.passes, "nothing was loaded or proven" in unloaded.how
    (1, True)
    >>> before = ll.estimate("toy:induction", tokens=16)
    >>> before.parameters, before.n_layers
    (47424, 2)
    """
    if model is None and not texts and not isinstance(analysis, Analysis):
        named = isinstance(analysis, str | os.PathLike)
        where: Any = os.fspath(analysis) if named else analysis
        if where not in names():
            from layerlens.model.plan import plan

            return plan(where, **_known(options))
    if model is None:
        raise InputError("Give the model after the analysis, or a hub id or a folder alone.")
    asked = get(analysis)  # type: ignore[arg-type]
    if isinstance(model, str | os.PathLike) or hasattr(model, "model_type"):
        return _unloaded(asked, model, texts, options)
    return asked.estimate(model, *texts, **options)


def _unloaded(asked: Analysis, source: Any, texts: Any, options: dict[str, Any]) -> Estimate:
    """The estimate of a call for a model that is not in memory."""
    from layerlens.model.unloaded import unloaded

    loading = {n: options.pop(n) for n in UNLOADED if n in options and n not in asked.options}
    model = unloaded(source, **loading)
    try:
        return asked.estimate(model, *texts, **options)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        # What torch raises where a number is read of a tensor that has none.
        raise ModelError(
            f"What {asked.name} takes of {model.name} follows from its weights, and it is not "
            "loaded: load it with ll.load, and estimate that."
        ) from error


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a plan, and no others."""
    for name in options:
        if name not in PLANNED:
            raise nearest(name, list(PLANNED), "Option")
    return options
