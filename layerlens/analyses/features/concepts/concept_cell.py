"""The page of a concept: the texts that have most of it, what it writes, an answer without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.concepts.factors import Factors, Signs
from layerlens.analyses.features.effects import why_no_effects
from layerlens.analyses.features.feature_cell import effects_table
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.errors import InputError
from layerlens.run.base import Base, record_base
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site
    from layerlens.model.text import Tokens

AROUND = 24
"""Tokens of an example on either side."""


def open_concept(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    place: Place,
    *,
    site: str,
    layers: Any,
    signs: str,
    positions_skipped: int,
    **_: Any,
) -> Opened:
    """Mark a concept in the texts that have most of it, and take it out of the first of them."""
    chosen = model.n_layers // 2 if layers is None else layers
    places = Places.of(model, site, chosen, positions_skipped)
    at = places.layers.index(int(place.need("layer"))) if len(places.sites) > 1 else None
    concept = _concept(place, at)
    rows = _of(place, "example_row", at)[concept]
    positions = _of(place, "example_position", at)[concept]
    if rows[0] < 0:
        raise InputError("No unit has any of this concept.")
    factors = Factors(_of(place, "dictionary", at).astype(np.float64), Signs(signs == "double"))
    here = places.sites[at or 0]
    fed = rows_of(model, tokens)
    texts: list[list[tuple[str, float]]] = []
    tables: list[Table] = []
    for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
        if row < 0:
            continue
        base = record_base(model, job.tokens(fed[row].ids), [here], asked=position)
        used = _coefficients(places, here, factors, base, job)
        texts.append(_marked(base.tokens, used[:, concept], position))
        if not tables:
            tables.append(_without(model, here, factors, base, (concept, used)))
    if why_no_effects(model, site) is None:
        direction = torch.from_numpy(factors.directions[[concept]]).float()
        tables.append(effects_table(job, model, direction))
    where = "" if at is None else f".sel(layer={here.layer})"
    return Opened(
        title=f"Concept {concept + 1} of {here}",
        code=f"{place.call}.data.dictionary{where}[{concept}]",
        tables=tables,
        texts=texts,
    )


def _concept(place: Place, layer: int | None) -> int:
    """Number of the concept of a cell; of one that is of none, the most important."""
    if "concept" in place.labels:
        return int(str(place.labels["concept"]).partition(":")[0]) - 1
    return int(np.nan_to_num(_of(place, "importance", layer), nan=-1.0).argmax())


def _of(place: Place, name: str, layer: int | None) -> np.ndarray:
    """An array of the answer, of one layer."""
    found = place.answer[name]
    return found if layer is None else np.asarray(found[layer])


def _coefficients(places: Places, site: Site, factors: Factors, base: Base, job: Job) -> np.ndarray:
    """How much of each concept is in each token, ``[position, concept]``; 0 where none counts."""
    kept = places.kept(base.tokens)[0].numpy()
    x = base.trace[site][0].float().cpu().numpy()[kept]
    found = np.zeros((len(kept), len(factors.rows)))
    found[kept] = factors.coefficients(factors.signs.open(x), job.tick)
    return found


def _marked(tokens: Tokens, used: np.ndarray, position: int) -> list[tuple[str, float]]:
    """The tokens around a place with how much of the concept each has, of the most."""
    near = slice(max(0, position - AROUND), position + AROUND + 1)
    marks = (used / max(1e-12, used.max()))[near].tolist()
    return list(zip(tokens.strings[0][near], marks, strict=True))


def _without(
    model: LensModel, site: Site, factors: Factors, base: Base, of: tuple[int, np.ndarray]
) -> Table:
    """The next token at the first example, as it is and with the concept taken out everywhere."""
    concept, used = of
    written = np.outer(used[:, concept], factors.directions[concept])
    step = torch.from_numpy(-written).float()
    out = Change(site, "add", step, tuple(range(base.length)))
    without = chances_with(model, base, [out])
    return next_token_table(model, {"as it is": chances(model, base.final), "without": without})
