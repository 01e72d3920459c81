"""What cells open where a layer's weights were rounded, or its products made with less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.sweeps.first_text import FirstText
from layerlens.model.integers import wholes
from layerlens.run.quantise import quantised
from layerlens.run.sparse import WAYS, layer_factors, sparse

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_rounded(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    bits: Any,
    group: int | None,
    chosen: str,
    **_: Any,
) -> Opened:
    """Run the first text with the layer rounded to all numbers of bits that were asked for."""
    layer = int(place.need("layer"))
    first = FirstText(job, model, tokens)
    widths = sorted(wholes(bits, "bits"), reverse=True)
    if "bits" in place.labels:  # the one of the cell last: the change is from the one before it
        own = int(place.labels["bits"])
        widths = [*(width for width in widths if width != own), own]
    finals = {}
    for width in widths:
        with quantised(model, layer, width, group, chosen):
            later = range(layer, model.n_layers)
            finals[f"{width} bits"] = first.one.run(first.one.states[layer], later)
    return first.opened(f"The next token with layer {layer} rounded", place.call, finals)


def open_sparse(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    sparsity: Any,
    split: float,
    seed: int,
    **_: Any,
) -> Opened:
    """Run the first text with the layer's products made with less, in each of the three ways."""
    layer = int(place.need("layer"))
    given = [sparsity] if isinstance(sparsity, int | float) else sparsity
    share = float(place.labels.get("sparsity", given[0]))
    first = FirstText(job, model, tokens)
    factors = layer_factors(model, layer, job.tick)
    finals = {}
    for way in reversed(WAYS):
        with sparse(factors, way, share, split, seed):
            state = first.one.run(first.one.states[layer], [layer])
        finals[way] = first.one.run(state, range(layer + 1, model.n_layers))
    title = f"The next token with {share:.0%} of the products of layer {layer} saved"
    return first.opened(title, place.call, finals)
