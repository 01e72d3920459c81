"""What a cell of ``chain_of_layers`` opens: the next token along the path that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.options import written
from layerlens.analyses.sweeps.first_text import FirstText
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_path(job: Job, model: LensModel, tokens: Tokens, place: Place, **_: Any) -> Opened:
    """Run the prompt along one of the paths that were tried.

    A cell of a simulation stands for its path; one of a length for the likeliest path of that
    length; one of a layer for the likeliest path that leaves the layer out (or repeats it), a
    correct one before others.
    """
    if place.array.startswith("random"):
        raise InputError("The random paths are not kept: open a cell of the search itself.")
    path = _path(place)
    first = FirstText(job, model, tokens)
    bos = "" if place.add_bos is None else f", add_bos={place.add_bos}"
    named = "no block at all" if not path else ", ".join(map(str, path))
    return first.opened(
        f"The next token along {named}",
        f"ll.run_layers(model, {written(place.given['text'])}, order={path}{bos})",
        {"along the path": first.one.run(first.one.states[0], path)},
    )


def _path(place: Place) -> list[int]:
    tried, correct, likely = (place.answer[name] for name in ("path", "correct", "probability"))
    if "simulation" in place.labels:
        found = np.array([int(place.labels["simulation"])])
    elif "length" in place.labels:
        found = np.flatnonzero(place.answer["path_length"] == int(place.labels["length"]))
    else:
        times = (tried == int(place.need("layer"))).sum(-1)
        wanted = times > 1 if place.array == "repeated" else times == 0
        found = np.flatnonzero(wanted & (correct >= 0))
    found = found[correct[found] >= 0]
    if not len(found):
        raise InputError("No path that was tried is like this, so there is nothing to open.")
    best = max(found, key=lambda number: ("layer" in place.labels and correct[number],
                                          likely[number]))  # fmt: skip
    return [int(step) for step in tried[best] if step >= 0]
