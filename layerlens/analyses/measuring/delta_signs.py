"""Whether models that were tuned from one base have moved their weights the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.measuring.signs_run import SignsRun
from layerlens.errors import InputError
from layerlens.model.block_weights import require_alike
from layerlens.model.required import require_model

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_CELL, _LAYER = ("weight", "layer"), ("layer",)
WORDS = {
    "agreement": (
        "entries that several models keep whose signs are all equal",
        "the same if signs were drawn",
    ),
    "strength": ("what is left of the changes when they are added", "the same with drawn signs"),
    "shared": (
        "entries kept by several models, of those kept by any",
        "the same if models kept entries independently",
    ),
}
FORMULAS = {"strength": "sum |sum of changes| / sum of sum |changes|, over kept entries"}
VARIABLES = {
    **{
        f"{place}{name}{end}": Variable(
            dims,
            "float64",
            "1",
            words[end != ""],
            formula=FORMULAS.get(name, ""),
            # Of every weight the picture has room for one thing.
            hidden=dims == _CELL and f"{name}{end}" != "agreement",
        )
        for place, dims in (("layer_", _LAYER), ("", _CELL))
        for name, words in WORDS.items()
        for end in ("", "_chance")
    },
    "kept": Variable(
        _CELL, "float64", "1", "entries that a model keeps, mean over models", hidden=True
    ),
    "layer_kept": Variable(_LAYER, "float64", "1", "entries that a model keeps, mean over models"),
    "threshold": Variable(("model",), "float64", "1", "smallest change of an entry that is kept"),
}


def count_work(
    model: LensModel, *, others: Sequence[LensModel] | None, keep: float, seed: int
) -> Work:
    """Count operations on the weights of one call, and bytes; runs nothing."""
    sizes = [w.numel() for w in model.hf.parameters()]
    count = len(others or ())
    return Work(0, 0, 4 * (count + 4) * max(sizes), operations=30.0 * count * sum(sizes))


@analysis(
    name="delta_signs",
    question="Have models that were tuned from this one moved its weights the same way?",
    source="Yadav et al. (2023), TIES-Merging: Resolving Interference When Merging Models, arXiv "
    "2306.01708",
    cost="no pass, weights only",
    view="panels",
    lead="Of each model only the largest changes of weights count. Where their signs agree no more "
    "often than drawn ones, averaging the models takes away what they have learned.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("others",),
)
def delta_signs(
    job: Job,
    model: LensModel,
    *,
    others: Sequence[LensModel] | None = None,
    keep: float = 0.2,
    seed: int = 0,
) -> None:
    """Compare the signs of what several models changed in the weights of this one.

    ``d = tuned - base`` for every weight of the blocks. Of each model the ``keep`` largest entries
    by magnitude are kept, over all blocks together, so that a weight may keep more or fewer of its
    own (``kept``).

    Parameters
    ----------
    others
        Two or more models with the names and shapes of this one's weights, which is their base.
    keep
        Share of the entries that each model keeps; 1 for all that changed.
    seed
        Of the drawn signs.

    Notes
    -----
    ``agreement`` is over entries that two or more models keep; by chance the signs of ``m`` of
    them are all equal with probability ``2^(1 - m)``, which ``agreement_chance`` averages over the
    very same entries. ``strength`` is 1 where nothing cancels; its control has the same magnitudes
    with drawn signs. ``shared_chance`` follows from how many entries of the weight each model
    keeps.

    Of the source are the cut to the largest entries of the whole model, 20 % by default, and the
    sign of the sum; it leaves out the embedding where it is shared, and here the embedding, the
    head and the final norm are always left out. What is told per weight, and chance, is ours. The
    cut is exact, found by counting, so that no model's changes are held at once.

    Raises
    ------
    InputError
        There are fewer than two models, one does not fit, one has changed nothing, or an option
        does not fit.

    Examples
    --------
    >>> import copy
    >>> import layerlens as ll
    >>> base = ll.load("toy:induction")
    >>> tuned = ll.load(copy.deepcopy(base.hf), base.tokenizer)
    >>> _ = [weight.data.mul_(1.01) for weight in tuned.hf.parameters()]
    >>> found = ll.delta_signs(base, [tuned, tuned])
    >>> float(found.data.agreement.min()), float(found.data.agreement_chance.min())
    (1.0, 0.5)
    """
    given = list(others or ())
    for other in given:
        require_model(other, "others")
    if len(given) < 2:
        raise InputError(
            f"Models in others: {len(given)}; expected 2 or more that were tuned from "
            f"{model.name}: signs agree between several."
        )
    if not 0 < keep <= 1:
        raise InputError(f"keep is {keep}; expected a share above 0, up to 1.")
    for other in given:
        require_alike(model, other)
    SignsRun(job, model, given, keep, seed).run()
