"""What it costs to change two layers at once, beyond what it costs to change each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.block_changes import CHANGES, BlockChanges
from layerlens.analyses.sensitivity.cross_layer_run import CrossLayerRun
from layerlens.analyses.sensitivity.hessian_run import require_full_precision, require_own
from layerlens.analyses.sensitivity.responses import asked
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.integers import whole
from layerlens.run.quantise import MOST_BITS

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW, _PAIR = ("layer",), ("layer", "layer_other")
WAYS = {"": "", "_chance": ", random changes"}
VARIABLES = {
    name: variable
    for way, words in WAYS.items()
    for name, variable in {
        f"alone{way}": Variable(
            _ROW, "float64", "nats", f"change of the loss, this layer alone{words}", signed=True
        ),
        **with_interval(
            f"interaction{way}",
            Variable(
                _PAIR,
                "float64",
                "nats",
                f"what changing both costs beyond each alone{words}",
                signed=True,
                formula="L(a, b) - L(a) - L(b) + L",
            ),
        ),
    }.items()
} | {
    "second_order": Variable(
        _PAIR,
        "float64",
        "nats",
        "the same as the Hessian foresees it",
        signed=True,
        formula="d_a H_ab d_b",
    ),
    "second_order_error": Variable(
        _PAIR, "float64", "nats", "what the Hessian foresees less what came of it", signed=True
    ),
    "additivity": Variable(
        _PAIR,
        "float64",
        "1",
        "both alone over both at once",
        formula="(L(a) + L(b) - 2 L) / (L(a, b) - L)",
        source="layerlens",
        signed=True,
    ),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
    "all_at_once": Variable((), "float64", "nats", "change of the loss, all these layers at once"),
    "all_alone": Variable((), "float64", "nats", "sum of the changes of each layer alone"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    change: str,
    bits: int,
    layers: Any,
    second_order: bool,
    skip_first: bool | int,
    control: bool,
    seed: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    chosen, texts, depth = model.layers(layers), len(tokens.lengths), model.n_layers
    left = [(depth - layer) / depth for layer in chosen]
    several = change != "average"
    places = enumerate(left)
    pairs = sum(share * (place if several else min(place, 1)) for place, share in places)
    alone = sum(left) * (1 if several else 2)
    runs = (1 + bool(control)) * (alone + pairs) + 1 + several
    each = 7 if texts == 1 else 7 * texts
    products = bool(second_order) * (len(chosen) * each * (len(chosen) + 1) / (2 * len(chosen)))
    weights = sum(p.numel() for p in model.hf.parameters()) * model.dtype.itemsize
    state = max(tokens.lengths) * model.d_model * model.dtype.itemsize
    count = len(chosen) * (len(chosen) - 1) / 2 if several else len(chosen) - 1
    rows = round((1 + bool(control)) * (len(chosen) + count)) * sum(tokens.lengths)
    held = weights * (4 if second_order else 2) + 60 * depth * state
    return Work(runs + products / texts, rows, held)


@analysis(
    name="cross_layer_sensitivity",
    question="Does changing two layers at once cost more, or less, than changing each of them?",
    source="Deng et al. (2023), CLADO: Mixed-Precision Quantization with Cross-Layer "
    "Dependencies, arXiv 2307.05657 (pairs of layers rounded together); second-order term: LeCun "
    "et al. (1990), Optimal Brain Damage",
    cost="1 pass for each layer and each pair, from the layer on; second order: 7 for each layer",
    view="panels",
    lead="Above 0, two layers changed together cost more than each alone: errors build on each "
    "other; below 0 they cover each other. Random changes of the same size stand beside.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
    effects={"bits": among("change", "round"), "seed": given("control")},
)
def cross_layer_sensitivity(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    change: str = "round",
    bits: int = 4,
    layers: Any = None,
    second_order: bool = True,
    skip_first: bool | int = False,
    control: bool = True,
    seed: int = 0,
) -> None:
    """Change the weights of each two layers, alone and together, and see what the loss does.

    With ``L`` the mean over texts of minus the mean log probability of their next tokens, and
    ``d_a`` what is added to the weights of layer ``a``: ``alone`` is ``L(a) - L``, ``interaction``
    is ``L(a, b) - L(a) - L(b) + L``, exactly, by running the model with these weights. What the
    Hessian foresees of it is ``second_order``, ``d_a H_ab d_b``, and ``second_order_error`` how far
    that is off: changes that are not small are no matter of second derivatives. ``additivity`` is
    what both cost alone over what they cost at once: 1 where layers may be judged one by one.

    Parameters
    ----------
    change
        ``"round"``: weight matrices to ``bits`` bits (symmetric, by output channel). ``"remove"``:
        what writes into the stream (o and down) to zero, so that the block adds nothing.
        ``"average"``: both layers of a pair get the mean of their weights, as where two are merged;
        neighbours only.
    bits
        2 to 24.
    layers
        Which blocks: a number, several or a slice; None for all.
    second_order
        Compute what the Hessian foresees.
    skip_first
        Leave the predictions at the first token of each text (or so many) out of the loss.
    control
        Change the same weights at random as well, each tensor by as much.
    seed
        Of the random changes.

    Notes
    -----
    CLADO's is the interaction of rounded layers, from pairs of runs; the other changes, the
    control, the second order beside it and ``additivity`` are ours. Means over texts; intervals
    over texts. ``all_at_once`` is the change of the loss with every layer changed, ``all_alone``
    the sum of ``alone``: how far scores of single layers can be trusted together. Afterwards the
    model holds its own weights again, bit by bit. With ``"average"`` what is added to a layer
    depends on its partner, so there is no ``alone``. An activation with kinks (ReLU) bends in them
    alone, which no second derivative sees, and a norm behind a sublayer (Gemma 2) hides a change
    of its scale until nothing is left: compare ``second_order`` with what came of it.

    Raises
    ------
    InputError
        An option does not fit, no next token counts, weights are shared, quantised, or in half
        precision.
    ModelError
        The model has no head, reads in both directions, or cannot be differentiated twice.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.cross_layer_sensitivity(model, "cat dog owl cat dog", bits=3)
    >>> found.data.interaction.dims
    ('layer', 'layer_other')
    """
    if change not in CHANGES:
        raise nearest(change, list(CHANGES), "change")
    if not 2 <= whole(bits, "bits") <= MOST_BITS:
        raise InputError(f"bits is {bits}; expected a whole number from 2 to {MOST_BITS}.")
    require_full_precision(model)
    chosen = model.layers(layers)
    if len(chosen) < 2:
        raise InputError(f"layers is {layers!r}, which is one layer: give two or more, or None.")
    texts = asked(job, tokens, None, skip_first)
    numbers = np.array(chosen, dtype=np.int32)
    sizes = {"layer": len(chosen), "layer_other": len(chosen)}
    job.declare(
        sizes,
        {axis: ((axis,), numbers) for axis in sizes},
        only=_names(change, second_order=bool(second_order), control=bool(control)),
    )
    with model.present(chosen):
        changes = BlockChanges(model, change, chosen, bits)
        require_own(changes.groups, chosen)
        run = CrossLayerRun(job, model, texts, chosen, changes)
        run.measure(seed if control else None, second_order=bool(second_order))


def _names(change: str, *, second_order: bool, control: bool) -> list[str]:
    """What will be there, what matters most first."""
    ways = list(WAYS)[: 1 + control]
    names = [f"interaction{way}" for way in ways]
    names += ["second_order", "second_order_error"] if second_order else []
    names += ["additivity", "loss"]
    if change != "average":
        names += [f"alone{way}" for way in ways] + ["all_at_once", "all_alone"]
    return names + [f"interaction{way}{end}" for way in ways for end in ("_low", "_high")]
