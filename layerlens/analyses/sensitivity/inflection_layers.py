"""Layers at which a model is saturated: attention that is sharp, and gradients that are small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.inflection_run import CURVES, WAYS, InflectionRun
from layerlens.analyses.sensitivity.text_gradients import recorded_bytes
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.model.like import require_like

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW = ("layer",)
VARIABLES = {
    name: variable
    for way, words in WAYS.items()
    for name, variable in {
        "inflection" + way: Variable(
            _ROW,
            "float64",
            "1",
            f"how surely the layer is an inflection{words}",
            formula="share of resamples of texts in which saturation is above that of both "
            "neighbouring layers",
            source="layerlens",
        ),
        "saturation" + way: Variable(
            _ROW,
            "float64",
            "1",
            f"saturation (SKI){words}",
            formula="a H + (1 - a) G; H, G: attention entropy and gradient by the state, each 1 "
            "at the layer where it is least and 0 where it is largest",
        ),
        **{
            end: curve
            for name, (units, long_name) in CURVES.items()
            for end, curve in with_interval(
                name + way, Variable(_ROW, "float64", units, long_name + words)
            ).items()
        },
    }.items()
} | {
    "cka_change": Variable(
        _ROW,
        "float64",
        "1",
        "distance of the other's states",
        formula="1 - CKA, both on the first principal components of the two together",
    ),
    "cka_change_chance": Variable(
        _ROW,
        "float64",
        "1",
        "distance of the other's states, tokens shuffled",
    ),
    "kept_variance": Variable(
        _ROW, "float64", "1", "share of the variance in the components on which both are compared"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None,
    a: float,
    components: int,
    sample: int,
    skip_first: bool | int,
    control: bool,
    seed: int,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; a way back counts as two."""
    texts, longest, ways = len(tokens.lengths), max(tokens.lengths), 1 + bool(control)
    state = longest * model.d_model * model.dtype.itemsize
    inside = recorded_bytes(model, longest)
    block = sum(p.numel() for p in model.hf.parameters()) / model.n_layers
    kept = model.n_layers * state + inside + round(block) * model.dtype.itemsize
    sampled = min(sample, sum(tokens.lengths)) * (model.n_layers + 1) * model.d_model * 4
    passes = 5 * ways + 3 * min(verify, texts) / texts + (other is not None)
    return Work(passes, ways * sum(tokens.lengths), kept + 2 * (other is not None) * sampled)


@analysis(
    name="inflection_layers",
    question="At which layers is the model saturated: sharp attention, and hardly any gradient?",
    source="Wang (2025), Attention Saturation and Gradient Suppression at Inflection Layers, arXiv "
    "2511.00797; CKA: Kornblith et al. (2019), arXiv 1905.00414",
    cost="5 passes a text, twice with the control; 1 pass of the other model",
    view="panels",
    lead="A layer is an inflection where saturation has a summit in at least 8 of 10 resamples of "
    "the texts; saturation is scaled to these layers, so look at the entropies and gradients, "
    "and at texts with shuffled tokens.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal", "attention"),
    gradients=True,
    effects={"components": given("other"), "sample": given("other"), "seed": given("control")},
)
def inflection_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    a: float = 0.5,
    components: int = 64,
    sample: int = 512,
    skip_first: bool | int = True,
    control: bool = True,
    seed: int = 0,
    verify: int = 1,
) -> None:
    """Measure attention entropy and gradients of each layer, and where both are low at once.

    ``attention_entropy`` is the mean over heads and queries of ``-sum_j p_j ln p_j``,
    ``gradient_by_state`` the norm of the gradient of a text's loss by the states after the layer,
    ``gradient_by_weights`` that by all weights of the layer. ``saturation`` (the paper's SKI) is
    ``a * H + (1 - a) * G``, with ``H`` and ``G`` the means over texts of the entropy and of the
    state's gradient, scaled so that the layer with the least has 1 and the one with the largest 0.
    ``inflection`` says in what share of resamples of the texts a layer is a summit of it: above
    both of its neighbours. A layer is called an inflection from 80 % on, in a remark.

    Parameters
    ----------
    other
        Another checkpoint of the same shape, such as the model after a training: ``cka_change`` is
        then 1 less the CKA of the states of the two after each layer.
    a
        Weight of the entropy, 0 to 1.
    components
        On how many principal components the states of both models together are compared.
    sample
        How many tokens are compared, at most; at least 4.
    skip_first
        Leave out the first token of each text (or so many): its query, its state, its prediction.
    control
        Measure the same texts with their tokens shuffled, too (the first one stays): ``_chance``.
        It takes as long again.
    seed
        Of the shuffles.
    verify
        Of how many texts the gradient at the embedding is found again by one pass of the whole
        model with its way back.

    Notes
    -----
    The paper calls every summit of SKI an inflection, of one set of texts and with no control.
    Scaling makes some layer 1 and some layer 0 whatever they are, so that resamples of the texts,
    shuffled tokens, and the raw curves beside them are ours; and so are that the first and the last
    layer, which have one neighbour, are never summits, how many components there are, and CKA
    without its bias (Song et al. 2012). Layers without attention patterns, as some models have
    among others, are NaN in ``attention_entropy`` and are left out of saturation; a model of such
    layers alone has none, and ``ll.gradient_norms`` has the gradients of it.

    Raises
    ------
    InputError
        An option does not fit, the other model does not, no next token counts, or there is only
        one text.
    ModelError
        The model has no head, no attention patterns, reads in both directions, or has no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.inflection_layers(model, ["cat dog owl cat dog", "owl cat dog owl cat"])
    >>> found.data.saturation.dims
    ('layer',)
    """
    skip = int(skip_first)
    _require(tokens, a, components, skip)
    foreign = None if other is None else require_like(model, other, tokens)
    compared = () if foreign is None else ("cka_change", "cka_change_chance", "kept_variance")
    ways = list(WAYS)[: 1 + bool(control)]
    names = [f"{n}{way}" for way in ways for n in ("inflection", "saturation")]
    names += [f"{n}{way}{end}" for way in ways for n in CURVES for end in ("", "_low", "_high")]
    layers = np.arange(model.n_layers, dtype=np.int32)
    job.declare({"layer": model.n_layers}, {"layer": (_ROW, layers)}, only=[*names, *compared])
    run = InflectionRun(job, model, tokens, skip, a, ways)
    sizes = None if foreign is None else (foreign, components, sample)
    run.measure(sizes, seed, verify)


def _require(tokens: Tokens, a: float, components: int, skip: int) -> None:
    if len(tokens.ids) < 2:
        raise InputError(
            "There is one text, and whether a layer is an inflection is judged by resamples of the "
            "texts: give a list of several."
        )
    if not 0 <= a <= 1:
        raise InputError(f"a is {a}; expected a weight from 0 to 1.")
    if whole(components, "components") < 1:
        raise InputError(f"components is {components}; expected 1 or more.")
    least = min(tokens.lengths)
    if skip < 0 or skip > least - 2:
        raise InputError(
            f"No next token counts: the shortest text has {least} tokens and skip_first is {skip}. "
            "Give longer texts, or skip_first=False."
        )
