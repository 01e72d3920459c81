"""How a small change of the first state grows from layer to layer, at random and at its worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.perturbed_cell import open_perturbed
from layerlens.analyses.sensitivity.perturbed_text import WAYS, Growth
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_ROW = ("layer",)
VARIABLES = {
    name: variable
    for way, words in WAYS.items()
    for name, variable in {
        **with_interval(
            f"growth{way}", Variable(_ROW, "float64", "1", f"relative change of the states{words}")
        ),
        f"gain{way}": Variable(
            _ROW,
            "float64",
            "1",
            f"change after the layer over the one before it{words}",
            unclipped=True,
        ),
        f"vulnerable{way}": Variable(
            _ROW,
            "float64",
            "1",
            f"how surely the layer stands out{words}",
            formula="share of resamples of texts in which growth is above its mean over layers + "
            "1 standard deviation",
            source="layerlens",
        ),
        f"loss_change{way}": Variable((), "float64", "nats", f"change of the loss{words}"),
    }.items()
} | {
    "ratio": Variable(_ROW, "float64", "1", "worst over random change of the states"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    epsilon: float,
    steps: int,
    draws: int,
    seed: int,
    skip_first: bool | int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    passes = 2 + draws + 3 * steps
    states = 30 * model.n_layers * max(tokens.lengths) * model.d_model * model.dtype.itemsize
    return Work(passes, passes * sum(tokens.lengths), states)


@analysis(
    name="perturbation_growth",
    question="Which layers make a small change of the first state larger, and which smaller?",
    source="relative change of a layer's output: Khalooei et al. (2022), Layers Sustainability "
    "Analysis, arXiv 2202.02626; worst case by projected gradient steps: Madry et al. "
    "(2018), arXiv 1706.06083",
    cost="2 passes, 1 for each draw, and 1 with its gradient for each step",
    view="panels",
    lead="The change of the states after each layer, relative to their size; only where the worst "
    "change stands above random ones of the same size is a layer open to attack.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
    opens=open_perturbed,
)
def perturbation_growth(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    epsilon: float = 0.05,
    steps: int = 10,
    draws: int = 3,
    seed: int = 0,
    skip_first: bool | int = True,
) -> None:
    """Change every token's state before the first block a little and follow the change.

    With ``d_t`` the change of token ``t``'s state ``h_t``, ``|d_t| = epsilon * |h_t|``, and
    ``h`` and ``h'`` the states of a text after a layer without and with it, ``growth`` is
    ``|h' - h| / |h|`` (Frobenius norms over the tokens that count). The change begins at random,
    and takes ``steps`` steps along the gradient of the text's loss, each a quarter of its length
    and brought back to it; ``_chance`` is the control, changes drawn at random. ``ratio`` is the
    one growth over the other, and ``gain`` what a layer itself makes of the change that reaches it:
    the growth after it over the one before. ``vulnerable`` tells layers that stand out: in what
    share of resamples of the texts their growth is more than one standard deviation (over layers)
    above the mean of all layers.

    Parameters
    ----------
    epsilon
        Length of the change, as a share of each state's.
    steps
        How many steps to the worst change.
    draws
        How many random changes of each text; their numbers are means over them.
    seed
        Of the draws.
    skip_first
        Leave out the first token of each text (or so many) from the norms and the loss; it is
        changed like any other. In many models its state is so large that it alone would count.

    Notes
    -----
    Means over texts, with intervals over them; ``ratio`` is that of the two means. The loss is
    that of the next token. A block that adds nothing leaves ``growth`` as it is. Growth by layer is
    that of Khalooei et al. (of whole batches there); their code has no rule by which a layer is a
    vulnerable one, and no random changes beside the worst: these, the rule and ``gain`` are ours.
    A remark names the layers that stand out in at least 80 % of the resamples, and which of them
    random changes find, too: those make any change larger, and say nothing of an attack.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.
    ModelError
        The model has no head, reads in both directions, or has no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.perturbation_growth(model, "cat dog owl cat", steps=2)
    >>> found.data.ratio.dims
    ('layer',)
    """
    if not 0 < epsilon <= 1:
        raise InputError(f"epsilon is {epsilon}; expected a share above 0, up to 1.")
    for name, number in (("steps", steps), ("draws", draws)):
        if whole(number, name) < 1:
            raise InputError(f"{name} is {number}; expected 1 or more.")
    if int(skip_first) < 0 or int(skip_first) > min(tokens.lengths) - 2:
        raise InputError(
            f"No next token counts: the shortest text has {min(tokens.lengths)} tokens and "
            f"skip_first is {skip_first}. Give longer texts, or skip_first=False."
        )
    layers = np.arange(model.n_layers, dtype=np.int32)
    job.declare({"layer": model.n_layers}, {"layer": (_ROW, layers)})
    growth = Growth(job, model, tokens, epsilon, int(skip_first))
    for row in range(len(tokens.ids)):
        growth.add(row, steps, draws, seed)
        job.progress(row + 1, len(tokens.ids), "texts")
    growth.finish()
