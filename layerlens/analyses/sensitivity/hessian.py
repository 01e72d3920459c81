"""How curved the loss is along each layer's weights, and along those of two layers together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.hessian_run import (
    RUNS,
    HessianRun,
    require_full_precision,
    variable_name,
)
from layerlens.analyses.sensitivity.responses import asked
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DRAWS = {"trace": 10, "cross": 4}
_LAYER = ("layer",)
_PAIR = ("layer", "layer_other")
VARIABLES = {
    variable_name(name, way): variable
    for way, words in (("", ""), ("_chance", ", next tokens shuffled"))
    for name, variable in {
        **with_interval(
            "trace",
            Variable(_LAYER, "float64", "nats", f"trace of the Hessian{words}", signed=True),
            "draws",
        ),
        "trace_error": Variable(
            _LAYER, "float64", "nats", f"standard error of the trace over draws{words}"
        ),
        "trace_per_weight": Variable(
            _LAYER, "float64", "nats", f"mean second derivative by a weight{words}", signed=True
        ),
        "top": Variable(
            _LAYER, "float64", "nats", f"largest eigenvalue of the Hessian{words}", signed=True
        ),
        "top_residual": Variable(
            _LAYER, "float64", "1", f"how far the largest eigenvalue is from settled{words}"
        ),
        "coupling": Variable(
            _PAIR, "float64", "1", f"curvature that two layers share, over their own{words}"
        ),
        "block_norm": Variable(
            _PAIR, "float64", "nats", f"Frobenius norm of a block of the Hessian{words}"
        ),
    }.items()
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    what: str,
    layers: Any,
    draws: int | None,
    steps: int,
    skip_first: bool | int,
    control: bool,
    seed: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call."""
    chosen, texts = len(model.layers(layers)), len(tokens.lengths)
    share = (chosen + 1) / (2 * chosen)  # what comes before a layer is not recorded
    count = draws or DRAWS.get(what, 0)
    # A pass and a recorded way back are kept for one text; each product goes back through both.
    made = 3 if texts == 1 else 0
    each = 4 if texts == 1 else 7
    passes = {
        "trace": made + each * count,
        "top": chosen * (made + each * steps) * share,
        "cross": chosen * (made + each * count) * share,
    }.get(what, 0)
    weights = sum(p.numel() for p in model.hf.parameters()) * model.dtype.itemsize
    held = weights * (4 if what == "trace" else 3)
    state = max(tokens.lengths) * model.d_model * model.dtype.itemsize
    losses = 1 + bool(control)
    rows = round(losses * passes / 3) * sum(tokens.lengths)
    return Work(losses * passes + 6, rows, held + 60 * model.n_layers * state)


@analysis(
    name="hessian",
    question="How sharply does the loss bend when a layer's weights move, alone or two together?",
    source="Pearlmutter (1994), Fast exact multiplication by the Hessian; trace: Hutchinson "
    "(1990); by layer: Yao et al. (2020), PyHessian, arXiv 1912.07145; pairs of layers: Deng et "
    "al. (2023), CLADO, arXiv 2307.05657",
    cost="trace: 4 passes a draw; top: 4 a step and layer; cross: 4 a draw and layer; with 3 first",
    view="panels",
    lead="Where the loss bends most, rounding or changing a layer's weights costs most; the "
    "control asks for shuffled next tokens.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
    effects={
        "draws": among("what", "trace", "cross"),
        "steps": among("what", "top"),
    },
)
def hessian(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    what: str = "trace",
    layers: Any = None,
    draws: int | None = None,
    steps: int = 20,
    skip_first: bool | int = False,
    control: bool = True,
    seed: int = 0,
) -> None:
    """Measure the second derivative of the texts' loss by the weights of each block.

    ``H_ab`` is the part of the Hessian by the weights of block ``a`` and of block ``b``; the loss
    is the mean over texts of minus the mean log probability of their next tokens. ``trace``:
    ``tr H_aa``, the mean over random signs ``v`` of ``v_a . (H v)_a``, where one product serves all
    blocks (without bias; other blocks only add to the error, which is said). ``top``: the
    eigenvalue of ``H_aa`` with the largest absolute value, by power iteration; negative where the
    loss bends downwards. ``cross``: ``block_norm``, ``||H_ab||_F``, from the root mean square of
    ``(H v)_a`` with random signs on ``b`` alone, and ``coupling``, this over the root of
    ``||H_aa||_F ||H_bb||_F``: how far two layers have to be changed with regard to each other.

    Parameters
    ----------
    what
        ``"trace"``, ``"top"`` or ``"cross"``.
    layers
        Which blocks: a number, several or a slice; None for all.
    draws
        Random sign vectors. None: 10 for the trace, 4 for ``"cross"``.
    steps
        Most steps of the power iteration of one block; it ends when the eigenvalue settles.
    skip_first
        Leave the predictions at the first token of each text (or so many) out of the loss.
    control
        Ask for shuffled next tokens, too, which takes twice as long.
    seed
        Of the draws and of the shuffles.

    Notes
    -----
    No Hessian is formed: a product with a vector is the derivative of the gradient along it.
    Kernels of attention that cannot be differentiated twice are left aside for PyTorch's plain one.
    ``trace_error`` is the standard error over draws; a trace whose interval holds 0 says nothing.
    ``top_residual`` is ``|H v - lambda v| / |lambda|`` where the iteration ended: near 0 where it
    settled. Embedding, head and final norm are held, and so are blocks that were not asked for.
    Memory is that of three to four copies of the weights asked for. Products are of one rounding of
    the model's dtype, so give it in float32. An activation with kinks (ReLU) bends in them alone,
    which no second derivative sees: the check against moved weights then fails, and says so.

    Raises
    ------
    InputError
        An option does not fit, no next token counts, or the model is in half precision.
    ModelError
        The model has no head, reads in both directions, or cannot be differentiated twice.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.hessian(model, "cat dog owl cat dog", draws=2)
    >>> found.data.trace.dims
    ('layer',)
    """
    if what not in RUNS:
        raise nearest(what, list(RUNS), "what")
    count = whole(DRAWS.get(what, 2) if draws is None else draws, "draws")
    if count < 2:
        raise InputError(f"draws is {draws}; expected at least 2, for an error.")
    if whole(steps, "steps") < 1:
        raise InputError(f"steps is {steps}; expected 1 or more.")
    require_full_precision(model)
    chosen = model.layers(layers)
    texts = asked(job, tokens, None, skip_first)
    ways = ("", "_chance")[: 1 + bool(control)]
    numbers = np.array(chosen, dtype=np.int32)
    sizes = {"layer": len(chosen), "layer_other": len(chosen)}
    coords = {axis: ((axis,), numbers) for axis in sizes}
    if what != "cross":
        del sizes["layer_other"], coords["layer_other"]
    job.declare(sizes, coords, only=[variable_name(n, way) for n in RUNS[what] for way in ways])
    with model.present(chosen):
        run = HessianRun(job, model, texts, chosen, seed)
        for way in ways:
            run.measure(what, way, steps if what == "top" else count)
        run.finish()
