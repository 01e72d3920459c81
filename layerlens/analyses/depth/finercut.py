"""FinerCut: which attention or MLP to leave out next, chosen by the output, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.prediction_change import DISTANCES
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.depth.finercut_trials import Cut, Unit, units_of
from layerlens.analyses.depth.left_out_cells import open_cut
from layerlens.analyses.sweeps.clean_pass import require_tokens, tolerance
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.feed import ANY_KIND

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_STEPS = 8

_STEP = ("step",)
VARIABLES = {
    "distance": Variable(
        ("step", "sublayer"), "float64", "nats", "distance of the output without it"
    ),
    "removed": Variable(_STEP, "int32", "1", "place of the sublayer left out at this step"),
    "removed_layer": Variable(_STEP, "int32", "layer", "layer of the sublayer left out"),
    "removed_distance": Variable(
        _STEP, "float64", "nats", "distance of the output without all so far"
    ),
    "removed_loss": Variable(_STEP, "float64", "nats", "loss without all so far"),
    "loss": Variable((), "float64", "nats", "loss of the whole model"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    steps: int | None,
    distance: str,
    front: float,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    layers = model.n_layers
    units = units_of(model)
    count = _steps(steps, len(units))
    open_ = [number for number in range(len(units)) if number >= int(front * len(units))]
    share = sum(layers - units[number].layer for number in open_ or range(len(units))) / layers
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    rows = count * len(open_) * sum(tokens.lengths)
    states = (2 * layers + 4) * widest * model.d_model * model.dtype.itemsize
    return Work(count * (2 + share) + verify, rows, states)


@analysis(
    name="finercut",
    question="Which attentions and MLPs can be left out, and in which order?",
    source="Zhang et al. (2024), FinerCut: Finer-grained Interpretable Layer Pruning for Large "
    "Language Models, arXiv 2405.18218",
    cost="for each sublayer left out 1 pass, and half a pass for each that could be",
    view="grid",
    lead="Each step leaves out the sublayer that is missed least; the curve says what all of "
    "them together have cost by then.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    pooled=True,
    opens=open_cut,
)
def finercut(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    steps: int | None = None,
    distance: str = "js",
    front: float = 0.4,
    skip_first: bool | int = False,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Leave out sublayers one by one, each time the one that the output misses least.

    At every step each attention and each MLP that is still there is left out on trial (it adds
    nothing to the residual stream), and what then comes out is compared with the output of the
    *whole* model. The one with the smallest distance goes for good; of equal ones, the first.
    A trial runs from the layer of its sublayer on.

    Parameters
    ----------
    steps
        How many sublayers to leave out; None for 8, or all if there are fewer.
    distance
        ``js`` (Jensen-Shannon, nats), ``kl`` (of the whole model's prediction, nats), ``angular``
        (angle between the logits, radians), ``norm`` (Frobenius norm of the difference of the
        logits of a text), or ``js_reference``, what the published code computes as JS.
    front
        The first sublayers, this share of all, are kept until no other is left; 0.4 as in the
        published settings.
    skip_first
        Leave out the first token of each text (or so many) from the distance.
    batch_size
    verify
        How many of the chosen removals, the last ones first, to compare with passes of the whole
        model.

    Notes
    -----
    Distances are means over tokens; ``norm`` is a mean over texts. ``distance`` is NaN for what
    is gone or kept for now. ``sublayer_layer`` and ``sublayer_part`` are coordinates. Published
    with 10 texts of 256 tokens; distances of a greedy order need not grow.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    SiteError
        The blocks have not both an attention and an MLP that can be left out.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> cut = ll.finercut(model, [5, 9, 4, 5, 9], steps=2)
    >>> cut.data.sublayer.values[cut.data.removed.values].tolist()
    ['1 mlp', '0 mlp']
    """
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}; expected one of {', '.join(DISTANCES)}.")
    if not 0 <= front <= 1:
        raise InputError(f"front is {front}; expected a share from 0 to 1.")
    units = units_of(model)
    count = _steps(steps, len(units))
    require_tokens(tokens, skip_first)
    _declare(job, units, count, distance)
    cut = Cut(job, model, tokens, units, distance, int(front * len(units)), skip_first, batch_size)
    cut.run(count)
    job.note(
        passes=cut.blocks / model.n_layers,
        method="greedy; trials run side by side, each from the state before its layer",
        distance=distance,
    )
    what = "distance of the whole model's output from itself"
    job.check("nothing left out", cut.zero, 0, what)
    if distance == "js":
        what = "largest Jensen-Shannon divergence of a trial (at most ln 2)"
        job.check("JS is at most ln 2", cut.largest, float(np.log(2)) + 1e-6, what)
    if verify:
        what = "distances after the last steps against passes of the whole model with hooks"
        scale = max(1.0, cut.largest)
        job.check("naive agreement", cut.verify(verify), tolerance(model) * scale, what)


def _steps(steps: int | None, units: int) -> int:
    if steps is None:
        return min(DEFAULT_STEPS, units)
    if isinstance(steps, bool) or not 1 <= steps <= units:
        raise InputError(f"steps is {steps}; expected 1 to {units}, the number of sublayers.")
    return steps


def _declare(job: Job, units: list[Unit], steps: int, distance: str) -> None:
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "step": (("step",), np.arange(steps, dtype=np.int32)),
        "sublayer": (("sublayer",), np.array([f"{u.layer} {u.part}" for u in units])),
        "sublayer_layer": (("sublayer",), np.array([u.layer for u in units], dtype=np.int32)),
        "sublayer_part": (("sublayer",), np.array([u.part for u in units])),
    }
    job.declare({"step": steps, "sublayer": len(units)}, coords)
    units_of = {"angular": "rad", "norm": "logit"}.get(distance, "nats")
    for name in ("distance", "removed_distance"):
        job.describe(name, units=units_of)
