"""Over a training, what each layer keeps of its inputs and what it knows of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.information.estimators import ROWS, Bins, Kernels, Neighbours
from layerlens.analyses.information.known_information import SHARES
from layerlens.analyses.information.plane_run import PlaneRun
from layerlens.analyses.information.run_states import Inputs
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.model.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerlens.model.lensmodel import LensModel

ESTIMATORS = ("bins", "kde", "kraskov")
_PLANE = ("run", "layer")
_INPUTS = Variable(_PLANE, "float64", "nats", "information of a layer on its inputs, I(X;T)")
_LABELS = Variable(_PLANE, "float64", "nats", "information of a layer on labels, I(T;Y)")
VARIABLES = {
    "I_XT": _INPUTS,
    "I_TY": _LABELS,
    "I_XT_lower": Variable(_PLANE, "float64", "nats", "lower bound of I(X;T)"),
    "I_TY_lower": Variable(_PLANE, "float64", "nats", "I(T;Y) as a difference of lower bounds"),
    "shuffled_I_TY": Variable(
        _PLANE, "float64", "nats", "I(T;Y) of shuffled labels: what is found of nothing"
    ),
    "shuffled_I_TY_low": Variable(
        _PLANE, "float64", "nats", "lower end of 95 % of I(T;Y) of shuffled labels"
    ),
    "shuffled_I_TY_high": Variable(
        _PLANE, "float64", "nats", "upper end of 95 % of I(T;Y) of shuffled labels"
    ),
    "gaussian_bias": Variable(
        ("layer", "known"), "float64", "nats",
        "error of I(X;T) for Gaussians as many and as wide, of known information", signed=True,
    ),
    "label_entropy": Variable((), "float64", "nats", "entropy of the labels, the most of I(T;Y)"),
    "most": Variable((), "float64", "nats", "ln n, the most of I(X;T) that n inputs show"),
}  # fmt: skip


def count_work(
    model: LensModel | Runs,
    *,
    inputs: Any,
    labels: Sequence[Any] | None,
    shuffles: int,
    estimator: str,
    **_: Any,
) -> Work:
    """Count operations and bytes of one call; runs nothing."""
    runs = model if isinstance(model, Runs) else Runs(model)
    count = len(inputs) if hasattr(inputs, "__len__") else sum(1 for _ in inputs or ())
    widths = runs.widths()
    weights = sum(parameter.numel() for parameter in runs.hf.parameters())
    entries = int(np.prod(np.shape(inputs)[1:])) if estimator == "kraskov" else 0
    draws, kinds = shuffles + 1, 1 if labels is None else len(set(map(str, labels)))
    once = [_operations(estimator, count, width, entries, 0, 0) for width in widths]
    each = [_operations(estimator, count, width, entries, draws, kinds) for width in widths]
    operations = 2.0 * weights * count * len(runs.labels)
    operations += sum(each) * len(runs.labels) + sum(once) * len(SHARES)
    held = 8 * count * (sum(widths) + entries) + 4 * 8 * ROWS * count
    return Work(0, 0, int(held), tokens=0, operations=operations)


def _operations(
    estimator: str, count: int, width: int, entries: int, draws: int, kinds: int
) -> float:
    """About what one estimate takes: sorting, exponentials and look-ups as so many operations."""
    if estimator == "bins":
        return 4000.0 * count * (width + draws)
    if estimator == "kde":
        return 2.0 * count**2 * (3 * width + 40 + 2 * draws * max(kinds, 1))
    return count**2 * (10.0 * (width + entries) + 400.0 * (draws + 1))


@analysis(
    name="information_plane",
    question="Over a training, how much does each layer keep of its inputs, and know of their "
    "labels?",
    source="Shwartz-Ziv and Tishby (2017), Opening the Black Box of Deep Neural Networks via "
    "Information, arXiv 1703.00810; Kolchinsky and Tracey (2017), arXiv 1706.02419 (kde); "
    "Kraskov, Stögbauer and Grassberger (2004), arXiv cond-mat/0305641, and Ross (2014) (kraskov)",
    cost="1 pass of all inputs for each run, and the estimates",
    view="panels",
    lead="Where I(T;Y) lies above that of shuffled labels a layer knows something of them. I(X;T) "
    "says how far its states lie apart in units of the bins or of the noise; how wrong it may be "
    "is seen from Gaussians of which it is known.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("inputs", "labels"),
    runs=True,
    effects={
        "bins": among("estimator", "bins"),
        "span": among("estimator", "bins"),
        "noise": among("estimator", "kde"),
        "neighbours": among("estimator", "kraskov"),
    },
)
def information_plane(
    job: Job,
    model: LensModel | Runs,
    *,
    inputs: Any = None,
    labels: Sequence[Any] | None = None,
    estimator: str = "bins",
    bins: int = 30,
    span: Sequence[float] | None = None,
    noise: float = 0.1,
    neighbours: int = 3,
    pool: str = "last",
    shuffles: int = 20,
    seed: int = 0,
) -> None:
    """Estimate I(X;T) and I(T;Y) of every layer T, at every moment of a training.

    The first argument is ``ll.Runs(network, checkpoints)``, see there: a torch network with its
    ``state_dict`` at each moment, or several networks or models from ``ll.load``; a single model
    is one run.

    Parameters
    ----------
    inputs
        X, each as likely as any other: what a torch network is called with, ``[n, ...]``; for
        models from ``ll.load`` texts, or ``ll.texts``.
    labels
        Y, one for each input; None: those of ``ll.texts(..., label=)``.
    estimator
        ``"bins"``: every entry of a state in equal bins; ``"kde"``: states blurred by normal noise,
        an upper bound with the lower one beside it; ``"kraskov"``: distances from near neighbours,
        of an array of inputs.
    bins
        Bins of each entry.
    span
        From where to where they reach, ``(-1, 1)`` for tanh; None: over what the states of a layer
        have at that moment.
    noise
        Variance of the noise, in the squared unit of the states.
    neighbours
        Distances are those from the so-manieth nearest state.
    pool
        Of texts, ``last``: the state of the last token; ``mean``: the mean of all tokens.
    shuffles
        How many times labels are dealt out anew, as a control.
    seed
        Of the shuffled labels and the Gaussians.

    Notes
    -----
    The states of a network without noise are a function of its inputs: if these are many and
    different, the true ``I(X;T)`` of a layer that keeps them apart is the entropy of the inputs, or
    infinite, whatever the layer does. What is estimated is how states cluster at the scale of a bin
    or of the noise; whether a curve falls ("compression") depends on that scale and on units that
    saturate (Saxe et al. 2018, On the Information Bottleneck Theory of Deep Learning). No estimate
    of ``n`` inputs exceeds ``most``, ln n.

    ``ll.ScatterView`` draws the plane itself, a mark a layer, with a slider through the runs, and
    so does ``figure(kind="scatter")``.

    ``gaussian_bias`` is the estimator's own error for Gaussians of which the information is known
    (the coordinate ``known_nats``), as many as there are inputs and as wide as each layer at the
    last run, with the same bins, noise or neighbours: 0 where it can be trusted. ``shuffled_I_TY``
    is what it finds of labels that mean nothing: as much as of the true ones where every input has
    a bin of its own.

    What a layer computes from the one before alone cannot know more than that one (the
    data-processing inequality). Estimates can, because bins and noise are set on each layer
    afresh; by how much is in ``most_gain`` among the attributes, and remarked on. Models from
    ``ll.load`` are read at tokens, which attention feeds from others, so it is not asked of them.

    Raises
    ------
    InputError
        An option does not fit, there is not one label for each input, or a network cannot be
        called with the inputs.
    ActivationError
        A layer gives NaN or infinity.

    Examples
    --------
    One entry, of four values that a linear map keeps apart: all ln 4 nats arrive.

    >>> import torch, layerlens as ll
    >>> network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh())
    >>> x = torch.tensor([[0.0], [0.3], [0.6], [0.9]])
    >>> found = ll.information_plane(ll.Runs(network), x, [0, 0, 1, 1])
    >>> found.data.I_XT.round(3).values.ravel().tolist(), float(found.data.most.round(3))
    ([1.386, 1.386], 1.386)
    """
    runs = model if isinstance(model, Runs) else Runs(model)
    given = Inputs(job, runs, inputs, pool)
    if pool != "last" and not runs.texts:
        raise InputError("pool is for texts, of which a state has to be made: leave it out.")
    place = given.labels(labels)
    chosen = _estimator(job, given, estimator, bins, span, noise, neighbours, seed)
    names = [name for name in VARIABLES if estimator == "kde" or not name.endswith("_lower")]
    PlaneRun(job, runs, given, place, chosen, shuffles, seed).run(names)


def _estimator(
    job: Job,
    given: Inputs,
    estimator: str,
    bins: int,
    span: Sequence[float] | None,
    noise: float,
    neighbours: int,
    seed: int,
) -> Bins | Kernels | Neighbours:
    """What estimates, from the options."""
    if estimator not in ESTIMATORS:
        raise nearest(estimator, ESTIMATORS, "Estimator of information_plane:")
    if whole(bins, "bins") < 2:
        raise InputError(f"bins is {bins}; expected at least 2.")
    ends = None
    if span is not None:
        if len(span) != 2 or not span[0] < span[1]:
            raise InputError(f"span is {span!r}; expected a smaller and a larger number.")
        ends = float(span[0]), float(span[1])
    if not 0 < noise < np.inf:
        raise InputError(f"noise is {noise!r}; expected a positive variance.")
    if estimator == "bins":
        return Bins(bins, ends)
    if estimator == "kde":
        return Kernels(noise, job.tick)
    if given.rows is None:
        raise InputError(
            "estimator='kraskov' needs distances between inputs, which texts have none of: choose "
            "bins or kde."
        )
    if not 1 <= whole(neighbours, "neighbours") < given.count:
        raise InputError(f"neighbours is {neighbours}; there are {given.count - 1} others.")
    return Neighbours(given.rows, neighbours, seed, job.tick)
