"""What the page of a feature opens: an example, features by a token, a text that is steered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from layerlens.analyses.contract.cells import FOUND, Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.feature_cell import open_feature
from layerlens.analyses.features.page.found_features import find_features
from layerlens.analyses.features.page.spread import window
from layerlens.analyses.features.page.steering import Steering, along
from layerlens.analyses.features.sae_metrics import Given, dictionary_of
from layerlens.analyses.lenses.fitting.documents import read_rows, text_of
from layerlens.corpus.rows import Row
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STRENGTH = "strength"
"""The label of a place that is a text steered by so much; any number."""


def open_page(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    place: Place,
    *,
    sae: Given | None,
    number: int,
    new_tokens: int,
    **_: Any,
) -> Opened:
    """Open an example's whole text, look for features by a token, or write a steered text."""
    fitted, dictionary, places = dictionary_of(model, sae)
    if FOUND in place.labels:
        return find_features(job, model, tokens, place.labels[FOUND], (dictionary, places))
    if STRENGTH in place.labels:
        how = (fitted.code, dictionary.require(number), new_tokens)
        return _steered(job, model, place, (dictionary, places), how)
    row, position, layer = _example(model, tokens, place)
    ids = {"text": row.ids}
    labels = {"feature": number, "position": position}
    labels |= {"layer": places.layers[0] if layer < 0 else layer}
    here = replace(place, labels=labels, given=ids, add_bos=None)
    return open_feature(job, model, job.tokens(row.ids), here, sae=sae)


def _example(model: LensModel, tokens: Tokens | Texts, place: Place) -> tuple[Row, int, int]:
    """The row of an example, its position in it, and its layer."""
    example = int(place.need("example"))
    text, position, layer = (
        int(place.answer[name][example]) if name in place.answer else -1
        for name in ("text", "position", "at_layer")
    )
    token = int(place.answer["token"][example])
    around = place.answer["context_token"][example].tolist()
    if text < 0:
        raise InputError("There is no such example: the feature is on at fewer tokens.")
    for row in read_rows(model, tokens):
        here = text_of(row) == text and position < len(row.ids) and row.ids[position] == token
        # Pieces of one text have its number, and may have the same token at the same place.
        if here and window(row.ids, position, len(around) // 2) == around:
            return row, position, layer
    raise InputError("The text of this example is no longer among the texts: run it again.")


def _steered(
    job: Job,
    model: LensModel,
    place: Place,
    of: tuple[Dictionary, Places],
    how: tuple[str, int, int],
) -> Opened:
    """Write on from the prompt of the answer with some of the feature, and of the other one."""
    dictionary, places = of
    code, number, steps = how
    strength = float(place.labels[STRENGTH])
    scale, layer = float(place.answer["scale"]), int(place.answer["steered_layer"])
    if not torch.isfinite(torch.tensor(scale * strength)) or layer < 0:
        raise InputError("There is nothing to steer yet: wait until the page has come to it.")
    site = next(site for site in places.sites if site.block == layer)
    prompt = job.tokens(place.answer["prompt_token"].tolist())
    steering = Steering(model, site, prompt, whole(steps, "new_tokens"))
    rows, other = dictionary["W_dec"], int(place.answer["other_feature"])
    steps_of = [strength * scale * rows[number]]
    if other >= 0:
        steps_of.append(along(rows[other], strength * scale * float(rows[number].norm())))
    texts = []
    for step in steps_of:
        job.tick()
        words = model.vocabulary.split(steering.write(step))[0]
        texts.append([(word, 0.0) for word in words])
    shape = (
        ""
        if site.kind != "z"
        else (f".unflatten(0, ({model.anatomy.blocks[site.block].n_heads}, -1))")
    )
    edit = (
        f"ll.edit('{site.kind}.{site.block}', 'add', "
        f"{strength * scale:.9g} * {code}['W_dec'][{number}]{shape}, always=True)"
    )
    return Opened(
        title=f"Feature {number} at strength {strength:g}",
        code=f"model.generate({steering.ids}, {steps}, {edit})",
        texts=texts,
    )
