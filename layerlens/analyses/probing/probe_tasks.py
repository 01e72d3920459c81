"""Several labels on one grid: each by depth, beside what its probe makes up."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from layerlens.analyses.probing.probing import CONTROL, OF, PROBE
from layerlens.errors import InputError
from layerlens.result import Result
from layerlens.result.strings import any_string

_OF_MODEL = ("model", "load", "model_type", "dtype", "n_layers", "d_vocab", "source", "versions")
_ARRAYS = ("accuracy", "accuracy_low", "accuracy_high")


def probe_tasks(results: Mapping[str, Result]) -> Result:
    """Lay probes of several labels over each other: tasks by depth, each above its control.

    Parameters
    ----------
    results : mapping
        What to call each label, to a result of `layerlens.probe` of the same model and points.

    Returns
    -------
    Result
        ``accuracy`` over (``task``, ``point``) with two rows for each label, the probe's and that
        of labels that say nothing, and the ends of its interval; ``selectivity``, their
        difference, over (``label``, ``point``). It has the checks of all.

    Raises
    ------
    InputError
        There are none, one is no probe, or models or points differ.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> made = {
    ...     name: ll.probe(model, texts, [t.split()[i] for t in texts], folds=3, untrained=False)
    ...     for name, i in (("first", 0), ("second", 1))
    ... }
    >>> ll.probe_tasks(made).data.task.values.tolist()
    ['first', 'control of first', 'second', 'control of second']
    """
    _require(results)
    first = next(iter(results.values()))
    rows = [(of, found) for found in results.values() for of in (PROBE, CONTROL)]
    # Its beginning tells a row from the one before, also where a name is cut off.
    tasks = [f"{words}{name}" for name in results for words in ("", "control of ")]
    arrays = {
        name: (("task", "point"), np.stack([found.data[name].sel({OF: of}) for of, found in rows]))
        for name in _ARRAYS
    }
    gaps = np.stack([found.data["selectivity"] for found in results.values()])
    with any_string():
        data = xr.Dataset(
            {**arrays, "selectivity": (("label", "point"), gaps)},
            {
                "task": np.array(tasks),
                "label": np.array(list(results)),
                "point": first.data["point"].values,
                "layer": ("point", first.data["layer"].values),
            },
        )
    for name in (*_ARRAYS, "selectivity"):
        data[name].attrs = dict(first.data[name].attrs)
    data.attrs = {name: first.data.attrs[name] for name in _OF_MODEL if name in first.data.attrs}
    data.attrs |= {
        "question": "At which layer can each of several labels be read?",
        "lead": "Where a label's numbers are larger than those of its control beside it, it can be "
        "read at that depth; a control above chance says that the probe learns by heart.",
        "view": "grid",
        "inputs": "[]",
        "passes": sum(int(found.data.attrs.get("passes", 0)) for found in results.values()),
        "seconds": sum(float(found.data.attrs.get("seconds", 0)) for found in results.values()),
        "complete": int(all(found.data.attrs.get("complete", 0) for found in results.values())),
        "notes": json.dumps(_notes(results), ensure_ascii=False),
    }
    checks = [check._replace(name=f"{name}: {check.name}")
              for name, found in results.items() for check in found.checks]  # fmt: skip
    calls = ", ".join(f"{name!r}: {found.code}" for name, found in results.items())
    return Result("probe_tasks", data, checks, f"ll.probe_tasks({{{calls}}})")


def _notes(results: Mapping[str, Result]) -> list[str]:
    """What each result has to say of itself, with its name."""
    return [
        f"{name}: {note}"
        for name, found in results.items()
        for note in json.loads(found.data.attrs.get("notes", "[]"))
    ]


def _require(results: Mapping[str, Result]) -> None:
    if not results:
        raise InputError("There is nothing to lay over each other: give {name: ll.probe(...)}.")
    first = next(iter(results.values()))
    for name, found in results.items():
        if not isinstance(found, Result) or found.analysis != "probe":
            raise InputError(f"{name!r} is {found!r:.40}; expected a result of ll.probe.")
        if found.data.attrs["model"] != first.data.attrs["model"]:
            raise InputError(f"The probe of {name!r} is of another model than the first one.")
        if found.data["point"].values.tolist() != first.data["point"].values.tolist():
            raise InputError(
                f"The probe of {name!r} is of other points than the first one: give all of them "
                "the same site and layers."
            )
