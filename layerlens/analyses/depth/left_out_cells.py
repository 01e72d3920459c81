"""What cells open where layers or sublayers were left out: the next token with them and without."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.depth.finercut_trials import units_of
from layerlens.analyses.depth.skip_sets import drawn, first_of, unit_name, unit_sets
from layerlens.analyses.sweeps.first_text import FirstText, muted, passed_by
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_influence(
    job: Job, model: LensModel, tokens: Tokens, place: Place, *, rounds: int, **_: Any
) -> Opened:
    """Run the first text without the layer of the cell, and without those that were gone by then.

    A cell of a round stands for the layer that was left out in it.
    """
    number = int(place.labels.get("round", 0))
    order = _reached(place, number) if rounds > 1 else []
    gone = order[:number]
    layer = int(place.labels["layer"] if "layer" in place.labels else order[number])
    first = FirstText(job, model, tokens)
    finals = {f"without {_listed(gone)}": first.one.without(gone)} if gone else {}
    finals[f"without {_listed([*gone, layer])}"] = first.one.without([*gone, layer])
    beside = f" and, gone before, {_listed(gone)}" if gone else ""
    code = place.call if gone else place.run_with(passed_by(place, layer))
    return first.opened(f"The next token without layer {layer}{beside}", code, finals)


def open_cut(job: Job, model: LensModel, tokens: Tokens, place: Place, **_: Any) -> Opened:
    """Run the first text without the sublayer of the cell and those left out before its step.

    A cell of a step alone stands for the sublayer that was left out in it.
    """
    units = units_of(model)
    step = int(place.need("step"))
    order = [units[number] for number in _reached(place, step)]
    gone = order[:step]
    named = {unit_name(unit): unit for unit in units}
    unit = named[str(place.labels["sublayer"])] if "sublayer" in place.labels else order[step]
    first = FirstText(job, model, tokens)
    finals = {f"the {step} before": first.one.without(sublayers=gone)} if gone else {}
    finals[f"and {unit_name(unit)}"] = first.one.without(sublayers=[*gone, unit])
    title = f"The next token without {unit_name(unit)}"
    beside = f" and the {step} sublayers before it" if gone else ""
    code = place.run_with(muted(place, dict.fromkeys([*gone, unit])))
    return first.opened(title + beside, code, finals)


def open_set(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    skip: Any,
    keep_ends: bool,
    draws: int,
    seed: int,
    **_: Any,
) -> Opened:
    """Run the first text without the set of the cell, and without the first of the random ones."""
    order, pool = unit_sets(model, skip, keep_ends)
    number = int(place.need("skipped"))
    units = first_of(order, pool, number)
    first = FirstText(job, model, tokens)
    finals = {"left out": first.one.without(sublayers=units)}
    random = drawn(pool, number, draws, seed)
    if random:
        finals = {"a random set": first.one.without(sublayers=random[0]), **finals}
    named = ", ".join(map(unit_name, units)) or "nothing"
    code = place.run_with(muted(place, units))
    title = f"The next token with {number} of the sublayers left out: {named}"
    return first.opened(title, code, finals)


def _listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers))


def _reached(place: Place, step: int) -> list[int]:
    """What the steps up to this one left out."""
    found = [int(number) for number in place.answer["removed"][: step + 1]]
    if min(found) < 0 and math.isnan(place.value):
        raise InputError(f"Step {step} was not reached, so there is nothing to open.")
    return found
