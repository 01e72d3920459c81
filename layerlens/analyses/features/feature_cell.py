"""What a cell of ``features`` opens: the page of one feature, from what is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.options import written
from layerlens.analyses.features.activations import by_head
from layerlens.analyses.features.effects import logit_effects, why_no_effects
from layerlens.analyses.features.encoded_text import EncodedText
from layerlens.analyses.features.neighbours import neighbours
from layerlens.analyses.features.sae_metrics import Given, dictionary_of
from layerlens.analyses.texts.text_pair import row_of
from layerlens.run.base import record_base
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.result.fitted import Fitted

NEIGHBOURS = 6
"""Features that are listed, the nearest first."""
TOKENS = 8
"""Tokens at either end."""


@dataclass(frozen=True)
class _Spot:
    """Where a feature is looked at.

    Attributes
    ----------
    values
        ``[n]``: its activation at the tokens that count.
    index
        Which of these tokens.
    """

    text: EncodedText
    feature: int
    layer: int
    values: Tensor
    index: int

    @property
    def position(self) -> int:
        return int(self.text.kept.nonzero()[self.index])

    def moved(self, value: float) -> float:
        """What is added of the decoder's row where the activation is set to a value."""
        x = self.text.states[self.layer][self.index : self.index + 1]
        factor = float(self.text.dictionary.factor(x))
        return (value - float(self.values[self.index])) * factor


def open_feature(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    sae: Given | None,
    **_: Any,
) -> Opened:
    """Read a feature at every token, by its weights, and set it to another value at one token."""
    fitted, dictionary, places = dictionary_of(model, sae)
    feature = dictionary.require(int(place.need("feature")))
    job.tick()
    text = EncodedText.of(places, dictionary, row_of(tokens, 0), job.tick)
    spot = _spot(text, place, feature)
    token = text.tokens.strings[0][spot.position]
    site = places.sites[spot.layer]
    doses = _doses(spot)
    tables = [_steered(model, spot, doses)]
    if why_no_effects(model, site.kind) is None:
        tables.append(effects_table(job, model, dictionary["W_dec"][[feature]]))
    tables.append(_neighbours(job, model, spot))
    marks = torch.zeros(len(text.kept))
    marks[text.kept] = spot.values / spot.values.max().clamp_min(1e-12)
    return Opened(
        title=f"Feature {feature} of layer {site.layer} at {token!r} (position {spot.position}), "
        f"where it is {float(spot.values[spot.index]):.3g}",
        code=_code(model, place, fitted, spot, doses[-1][1]),
        tables=tables,
        texts=[list(zip(text.tokens.strings[0], marks.tolist(), strict=True))],
    )


def _spot(text: EncodedText, place: Place, feature: int) -> _Spot:
    """The cell; where it has no position that counts, the feature's strongest token."""
    values = text.encode()[..., feature]
    numbers = text.places.layers
    layer = int(values.amax(1).argmax())
    if "layer" in place.labels:
        layer = numbers.index(int(place.labels["layer"]))
    counted = text.kept.nonzero().flatten().tolist()
    at = place.labels.get("position")
    index = counted.index(at) if at in counted else int(values[layer].argmax())
    return _Spot(text, feature, layer, values[layer], index)


def _doses(spot: _Spot) -> list[tuple[str, float]]:
    """What the activation is set to: 0 and twice as much; where it is off, its strongest."""
    value, most = float(spot.values[spot.index]), float(spot.values.max())
    if value > 0:
        return [("set to 0", 0.0), ("doubled", 2 * value)]
    most = most if most > 0 else 1.0
    return [(f"set to {most:.3g}", most)]


def _steered(model: LensModel, spot: _Spot, doses: list[tuple[str, float]]) -> Table:
    """The next token at the place as it is, and with the activation set to other values."""
    base = record_base(model, spot.text.tokens, asked=spot.position)
    site = spot.text.places.sites[spot.layer]
    row = by_head(model, site, spot.text.dictionary["W_dec"][spot.feature])
    conditions = {"as it is": chances(model, base.final)}
    for name, value in doses:
        change = Change(site, "add", spot.moved(value) * row, (spot.position,))
        conditions[name] = chances_with(model, base, [change])
    return next_token_table(model, conditions)


def effects_table(job: Job, model: LensModel, row: Tensor) -> Table:
    """The tokens that it raises and lowers most, by its weights."""
    tokens, scores = logit_effects(model, row, min(TOKENS, model.d_vocab), job.tick)
    up, down = ([model.token_string(int(i)) for i in side] for side in tokens[0])
    raised, lowered = scores[0].tolist()
    rows = [list(each) for each in zip(up, raised, down, lowered, strict=True)]
    return Table(["raised", "score", "lowered", "score"], rows, "What it writes, by its weights")


def _neighbours(job: Job, model: LensModel, spot: _Spot) -> Table:
    """The features whose decoder rows are nearest to its own, and a random direction's nearest."""
    dictionary = spot.text.dictionary
    job.tick()
    near = neighbours(dictionary["W_dec"], spot.feature, NEIGHBOURS)
    here = dictionary.encode(spot.text.states[spot.layer][spot.index : spot.index + 1])[0]
    names = [""] * len(near.numbers)
    if names and why_no_effects(model, spot.text.places.sites[0].kind) is None:
        raised, _ = logit_effects(model, dictionary["W_dec"][near.numbers], 1, job.tick)
        names = [model.token_string(int(token)) for token in raised[:, 0, 0]]
    listed = [
        [str(number), cosine, float(here[number]), name]
        for number, cosine, name in zip(
            near.numbers.tolist(), near.cosines.tolist(), names, strict=True
        )
    ]
    chance = float(near.by_chance[0]) if len(near.by_chance) else float("nan")
    listed.append(["random", chance, float("nan"), ""])
    head = ["feature", "cosine", "here", "raises most"]
    return Table(head, listed, "Nearest features, and what they are here")


def _code(model: LensModel, place: Place, sae: Fitted, spot: _Spot, value: float) -> str:
    """Python that runs the text with the last of the doses; of several texts, the analysis."""
    if place.one_text is None:
        return place.call
    site = spot.text.places.sites[spot.layer]
    shape = ""
    if site.kind == "z":
        shape = f".unflatten(0, ({model.anatomy.blocks[site.block].n_heads}, -1))"
    row = f"{sae.code}['W_dec'][{spot.feature}]{shape}"
    how = "" if place.add_bos is None else f", add_bos={place.add_bos}"
    return (
        f"ll.run(model, {written(place.given['text'])}, edits=["
        f"ll.edit('{site.kind}.{site.layer}', 'add', {spot.moved(value):.9g} * {row}, "
        f"position={spot.position})]{how})"
    )
