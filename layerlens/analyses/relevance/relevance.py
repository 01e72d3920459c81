"""How much of an answer each token carries, at every depth, by one of five rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.relevance.relevance_cell import open_relevance
from layerlens.analyses.relevance.relevance_text import RelevanceText
from layerlens.analyses.relevance.rules import CONSERVING, FLOWS, RULES, SPLITTING
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.sweeps.straight_way import FEWEST, INSIDE, WITHIN
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.layer import neuron_sites
from layerlens.model.integers import whole
from layerlens.run.flow import require_flow
from layerlens.run.many_edits import DEFAULT_LIMIT
from layerlens.run.where import row_shapes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEPTHS = ("layers", "embed")
STEP_WITHIN = 0.05
"""Share by which a derivative may differ from what a small step gives."""

_CELL, _POINT, _SUB = ("point", "position"), ("point",), ("sublayer",)
_NEURON, _ZEROED = ("layer", "rank"), ("zeroed",)
VARIABLES = {
    "relevance": Variable(
        _CELL, "float64", "logit", "relevance of the token", signed=True, of_input=True
    ),
    "relevance_chance": Variable(
        _CELL, "float64", "logit", "mean relevance for random answers", signed=True
    ),
    "likeness_chance": Variable(
        _POINT, "float64", "1", "cosine with the relevance for random answers, sign left out"
    ),
    "total": Variable(_POINT, "float64", "logit", "relevance of all tokens", signed=True),
    "constant": Variable(_POINT, "float64", "logit", "what no token has", signed=True),
    "missing": Variable(
        _POINT, "float64", "logit", "answer less all relevance and what no token has", signed=True
    ),
    "steps_used": Variable(_POINT, "int32", "1", "derivatives taken along the way"),
    "sublayer_relevance": Variable(
        _SUB, "float64", "logit", "relevance of what the sublayer writes", signed=True
    ),
    "sublayer_share": Variable(
        _SUB, "float64", "1", "share of the sublayer in the relevance of all writes, signs left out"
    ),
    "sublayer_share_chance": Variable(
        _SUB, "float64", "1", "mean share of the sublayer for random answers"
    ),
    "neuron": Variable(_NEURON, "int32", "1", "neurons that carry most of the answer", hidden=True),
    "neuron_relevance": Variable(
        _NEURON, "float64", "logit", "relevance of the neuron, all tokens", signed=True
    ),
    "neuron_chance": Variable(
        _NEURON, "float64", "logit", "mean relevance of the neuron for random answers", signed=True
    ),
    "zeroed_layer": Variable(_ZEROED, "int32", "1", "layer of the neuron set to 0", hidden=True),
    "zeroed_neuron": Variable(_ZEROED, "int32", "1", "neuron set to 0 at every token", hidden=True),
    "zeroed_relevance": Variable(
        _ZEROED, "float64", "logit", "relevance of the neuron set to 0", signed=True
    ),
    "zeroed_effect": Variable(
        _ZEROED, "float64", "logit", "what the answer loses when it is 0", signed=True
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    rule: str,
    answer: Any,
    wrong: Any,
    at: str,
    baseline: Any,
    steps: int,
    draws: int,
    neurons: int,
    verify: int,
    seed: int,
    memory_limit: int,
) -> Work:
    """Count passes, rows and bytes of one call, as if the fewest steps were enough."""
    longest = max(tokens.lengths)
    row = longest * model.d_model * model.dtype.itemsize * model.n_layers * INSIDE
    if rule != "integrated":
        zeroed = 2 * verify * bool(neurons)
        return Work(1 + 2 * (1 + draws) + zeroed, 3 + draws + zeroed, row)
    later = 1.0 if at == "embed" else (model.n_layers + 2) / 2
    ways = min(whole(steps, "steps"), FEWEST)
    held = max(row, min(memory_limit, ways * row))
    return Work(4 + (baseline is not None) + (1 + 3 * ways) * later, 3 * ways, held)


@analysis(
    name="relevance",
    question="Which tokens does an answer lean on, followed back through every layer?",
    source="Achtibat et al. (2024), AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for "
    "Transformers, arXiv 2402.05602; Ali et al. (2022), XAI for Transformers: Better Explanations "
    "through Conservative Propagation, arXiv 2202.07304; Sundararajan, Taly and Yan (2017), "
    "Axiomatic Attribution for Deep Networks, arXiv 1703.01365",
    cost="1 pass a text and one way back, and one more for each random answer; with neurons, a "
    "pass for each that is set to 0",
    view="strip",
    lead="What each token's state at a depth carries of the answer's logit: blue speaks for the "
    "answer, red against it. What no token has (biases) and what a rule loses stand beside it, and "
    "the cosine with random answers says how much of the map is the same for any answer.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    gradients=True,
    opens=open_relevance,
    effects={
        "baseline": among("rule", "integrated"),
        "steps": among("rule", "integrated"),
        "memory_limit": among("rule", "integrated"),
        "neurons": among("rule", *SPLITTING),
        "verify": given("neurons"),
    },
)
def relevance(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    rule: str = "attnlrp",
    answer: str | int | Sequence[str | int] | None = None,
    wrong: str | int | Sequence[str | int] | None = None,
    at: str = "layers",
    baseline: str | Sequence[Any] | None = None,
    steps: int = 256,
    draws: int = 4,
    neurons: int = 0,
    verify: int = 4,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Divide the logit of an answer among the tokens, at the embedding and after every block.

    ``relevance`` of a token at a depth is its state times the derivative of the logit there,
    summed over the state's entries; a rule says what the derivative flows through.

    Parameters
    ----------
    rule
        ``"attnlrp"``: statistics of norms are held, activations pass by their slope from zero,
        products of two things that depend on the input pass one half to each. ``"cp"``: as that,
        but patterns and gates are held, so that the model is linear in the states and everything
        adds up. ``"input_x_gradient"``: the plain derivative. ``"gradient"``: its length, without
        a sign and without the state. ``"integrated"``: the mean derivative on the straight way,
        at the depth itself, from the states of a baseline to those of the text.
    answer
        The token whose logit is explained, by string or id; None for the model's own.
    wrong
        Explain the difference of two logits: the answer's less this token's.
    at
        ``"layers"`` for all depths and what sublayers write, ``"embed"`` for the embedding alone
        (which for ``"integrated"`` is much less work).
    baseline
        Where the ways of ``"integrated"`` begin: a text of as many tokens, such as the same with
        another name in it. None for the mean of the text's own states at the depth (the first
        token's stays: models lean on it whatever it is, so that its way is not one).
    steps
        Derivatives that ``"integrated"`` takes of one way at most: 16, then 64 and so on, until
        they add up within 1 %.
    draws
        Random answers (or pairs of them) that the same is asked for; not for ``"integrated"``.
    neurons
        Give so many neurons of each layer, those that carry most; for rules that divide the answer
        at one place (neither ``"gradient"`` nor ``"integrated"``).
    verify
        Set so many neurons, the strongest of all layers, to 0 one by one, and as many random ones.
    seed
        Of the random answers and neurons.
    memory_limit
        Bytes for the rows of ``"integrated"``.

    Notes
    -----
    ``total + constant + missing`` is the logit, at each depth. ``constant`` is what biases add
    from there on, exactly (of ``"integrated"`` it is the logit where the way begins).
    ``missing`` is 0 for ``"cp"`` and, within 1 %, for ``"integrated"``: that is checked. It is
    not for ``"attnlrp"`` below the last block, because a softmax does not conserve relevance, and
    for ``"input_x_gradient"`` nowhere; it is shown and never divided among the tokens. A map is of
    use where it differs from the maps of other answers: see ``likeness_chance``, and hold it
    against what removing tokens does. ``sublayer_share`` is the size of what a sublayer's write
    carries, summed over tokens, over that of all writes: a score of layers as in Ranjan and Savakis
    (2024), LRP-QViT: Mixed-Precision Vision Transformer Quantization via Layer-wise Relevance
    Propagation, arXiv 2401.11243, who deal out bits by one; to take it at the writes is ours.
    Soft-capped logits are explained before the cap.

    ``neuron_relevance`` is what a neuron gives (after its gate) times the derivative there, summed
    over tokens; by ``"attnlrp"`` and ``"cp"`` the neurons of a layer add up, with the bias behind
    them, to what the MLP writes: that is checked. It is a first-order statement, and no claim about
    a model without the neuron: ``zeroed_effect`` is that, the answer less the answer with the
    neuron at 0 at every token, everything after it free to react.

    Raises
    ------
    InputError
        An option does not fit.
    ModelError
        No rule is known for a part of the model (experts, state spaces), or it has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.relevance(model, "cat dog owl cat", rule="cp").data
    >>> bool(abs(found.missing).max() < 1e-3)
    True
    """
    _check_options(model, rule, at, steps, draws)
    _check_neurons(model, neurons, verify)
    texts = len(tokens.ids)
    answers, others = (one_each(v, texts, n) for v, n in ((answer, "answer"), (wrong, "wrong")))
    beginnings = _baselines(job, baseline, texts)
    points = model.anatomy.points(("embed", "post") if at == "layers" else ("embed",))
    sublayers = _sublayers(model) if at == "layers" and rule != "integrated" else []
    cells = Cells(model, tokens)
    zeroed = verify if neurons else 0
    labels, sites, layers = zip(*points, strict=True)
    run = RelevanceText(job, model, rule, (labels, sites, layers), sublayers, (neurons, zeroed))
    job.declare(
        {"point": len(points), **run.sizes, **cells.sizes()},
        {
            "point": (_POINT, np.array(labels)),
            "point_layer": (_POINT, np.array(layers, dtype=np.int32)),
            **run.coords,
            **cells.coords(),
        },
        only=_variables(rule, bool(sublayers), draws, neurons, zeroed),
    )
    for row in range(texts):
        run.text(row_of(tokens, row), row)
        asked = answers[row], others[row]
        if rule == "integrated":
            run.integrated(asked, beginnings[row], steps, memory_limit)
        else:
            run.by_gradient(asked, draws, seed)
        job.progress(row + 1, texts, "texts")
    _check(job, model, run, rule)


def _check_options(model: LensModel, rule: str, at: str, steps: int, draws: int) -> None:
    if rule not in RULES:
        raise nearest(str(rule), list(RULES), "Rule")
    if at not in DEPTHS:
        raise nearest(str(at), list(DEPTHS), "Depth")
    if whole(steps, "steps") < 1:
        raise InputError(f"steps is {steps}; expected 1 or more.")
    most = max(model.d_vocab // 2 - 1, 0)
    if not 0 <= whole(draws, "draws") <= most:
        raise InputError(
            f"draws is {draws}; expected from 0 to {most}, the pairs of other answers there are."
        )
    if rule in FLOWS:
        require_flow(model)


def _check_neurons(model: LensModel, neurons: int, verify: int) -> None:
    for name, value in (("neurons", neurons), ("verify", verify)):
        if whole(value, name) < 0:
            raise InputError(f"{name} is {value}; expected 0 or more.")
    if not neurons:
        return
    widths = [width for (width,) in row_shapes(model, neuron_sites(model)).values()]
    if neurons > max(widths) or 2 * verify > sum(widths):
        raise InputError(
            f"neurons is {neurons} and verify {verify}: {model.name} has {max(widths)} neurons in "
            f"a layer and {sum(widths)} altogether, of which twice verify are set to 0."
        )


def _baselines(job: Job, baseline: Any, texts: int) -> list[Tokens | None]:
    """Where the ways of each text begin."""
    if baseline is None:
        return [None] * texts
    given = job.tokens(baseline)
    if len(given.ids) not in (1, texts):
        raise InputError(
            f"baseline has {len(given.ids)} texts for {texts} text{'s' * (texts > 1)}: give one "
            "for all of them, or one each."
        )
    return [row_of(given, row if len(given.ids) > 1 else 0) for row in range(texts)]


def _sublayers(model: LensModel) -> list[tuple[str, int]]:
    return [
        (kind, layer)
        for layer, block in enumerate(model.anatomy.blocks)
        for kind in ("attn_out", "mlp_out")
        if kind in block.taps
    ]


def _variables(rule: str, sublayers: bool, draws: int, neurons: int, zeroed: int) -> list[str]:
    """What a rule gives."""
    chance = draws > 0 and rule != "integrated"
    names = ["relevance", *(["relevance_chance", "likeness_chance"] if chance else []), "total"]
    if rule in (*FLOWS, "integrated"):
        names.append("constant")
    if rule != "gradient":
        names.append("missing")
    if rule == "integrated":
        return [*names, "steps_used"]
    if sublayers:
        names += ["sublayer_relevance", "sublayer_share"]
        names += ["sublayer_share_chance"] if chance else []
    if neurons:
        names += ["neuron", "neuron_relevance"]
        names += ["neuron_chance"] if chance else []
    if zeroed:
        names += ["zeroed_layer", "zeroed_neuron", "zeroed_relevance", "zeroed_effect"]
    return names


def _check(job: Job, model: LensModel, run: RelevanceText, rule: str) -> None:
    """Say what was compared."""
    limit = tolerance(model)
    same = (
        "the answer where the ways end and in a plain pass, relative"
        if rule == "integrated"
        else "a block in the pass of the rule and by itself, of the same input, relative"
    )
    job.check("same numbers", run.off, limit, same)
    if rule in CONSERVING:
        what = "relevance and what no token has add up to the answer at every depth, relative"
        job.check("conserved", run.lost, WITHIN if rule == "integrated" else limit, what)
    elif rule == "attnlrp" and model.n_layers - 1 in run.layers:
        what = "relevance after the last block adds up to the answer, relative"
        job.check("conserved after the last block", run.lost_last, limit, what)
    elif rule not in FLOWS:
        along = "the embeddings" + " and the neurons of a layer" * bool(run.neurons)
        what = f"derivative along {along} against a small step of the model, relative"
        job.check("small step", run.step_off, STEP_WITHIN, what)
    if run.neurons and rule in FLOWS:
        what = "neurons and the bias behind them add up to what the MLP writes, relative"
        job.check("neurons add up", run.neurons_off, limit, what)
    if run.capped:
        job.remark("The model soft-caps its logits: the logit before the cap is explained.")
    job.note(passes=run.passes, metric_words=run.words, method=_METHODS[rule])


_METHODS = {
    "attnlrp": "AttnLRP as gradient times input: norms held, half to each factor of a product",
    "cp": "conservative propagation: norms, patterns and gates held",
    "input_x_gradient": "state times derivative",
    "gradient": "length of the derivative",
    "integrated": "Gauss-Legendre on the way from a baseline, at each depth itself",
}
