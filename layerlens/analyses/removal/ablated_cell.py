"""What a cell of ``ablate_sweep`` opens: the next token with the part and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.removal.removable_parts import KINDS, Units
from layerlens.analyses.removal.replacements import Replacement
from layerlens.analyses.texts.text_pair import row_of
from layerlens.run.base import record_base
from layerlens.run.edits import Edit, edit
from layerlens.run.values import source

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_ablated(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    unit: str,
    how: str,
    reference: Any,
    by_position: bool,
    draws: int,
    seed: int,
    positions: Any,
    **_: Any,
) -> Opened:
    """Run the text with one part replaced, as the sweep does; of several draws, by the first."""
    layer = int(place.need("layer"))
    index = int(place.need(unit)) if unit in ("head", "neuron") else None
    units = Units(model, unit, [layer], [index] if unit == "neuron" and index is not None else None)
    part = next(part for part in units if part.index == index)
    text = row_of(tokens, 0)
    replacement = Replacement(job, units, [text], reference, how, by_position, draws, seed)
    where = model.positions(text, positions)
    output = next(iter(replacement.outputs(0, where)))
    base = record_base(model, text, units.sites())
    job.tick()
    change = units.change(part, base, output(layer), where)
    with_it, without = chances(model, base.final), chances_with(model, base, [change])
    name = unit if index is None else f"{unit} {index}"
    of_layer = "" if unit == "layer" else f" of layer {layer}"
    edits = _edits(place, unit, layer, index, how, reference, positions, by_position)
    return Opened(
        title=f"The next token without {f'layer {layer}' if unit == 'layer' else name}{of_layer}",
        code=place.run_with(edits),
        tables=[next_token_table(model, {"as it is": with_it, "without": without})],
    )


def _edits(
    place: Place,
    unit: str,
    layer: int,
    index: int | None,
    how: str,
    reference: Any,
    positions: Any,
    by_position: bool,
) -> list[Edit]:
    """The same as edits; none where no edit says just that."""
    given = place.one_text
    if given is None:
        return []
    if unit == "layer":
        if how != "zero":
            return []
        before = source(given, f"resid_pre.{layer}", positions)
        return [edit(f"resid_post.{layer}", "set", before, position=positions)]
    site = f"{KINDS[unit]}.{layer}" + (f".{index}" if unit == "head" else "")
    neuron = index if unit == "neuron" else None
    if how == "zero":
        return [edit(site, "zero", position=positions, neuron=neuron)]
    texts = given if reference is None else reference
    if how != "mean" or by_position or not _strings(texts):
        return []
    return [edit(site, "mean", texts, position=positions, neuron=neuron)]


def _strings(texts: Any) -> bool:
    several = texts if isinstance(texts, list) else [texts]
    return bool(several) and all(isinstance(text, str) for text in several)
