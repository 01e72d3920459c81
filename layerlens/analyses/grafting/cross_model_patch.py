"""Cross-model patching: at each layer, this model goes on from another model's states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.grafting.cross_model_cell import open_crossed
from layerlens.analyses.grafting.cross_model_text import VARIABLES, CrossModel
from layerlens.analyses.texts.one_each import one_each
from layerlens.model.like import require_like
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    chosen = model.layers(layers)
    replayed = sum(1 - (layer + 1) / model.n_layers for layer in chosen)
    states = 4 * model.d_model * length * model.n_layers
    return Work(texts * (2 + replayed + verify), texts * (len(chosen) + 2), 5 * states)


@analysis(
    name="cross_model_patch",
    question="At which layers does what the other model does differently come about?",
    source="Prakash et al. (2024), Fine-Tuning Enhances Existing Mechanisms, arXiv 2402.14811 "
    "(cross-model activation patching)",
    cost="1 pass of each model and a replay of the later blocks for each layer",
    view="panels",
    lead="The state after each layer of this model goes into the other: where the curve rises, "
    "what makes them differ has come about.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    opens=open_crossed,
)
def cross_model_patch(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logit_diff",
    positions: Any = None,
    layers: Sequence[int] | None = None,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Replace this model's states after a block by the other model's, and let it go on.

    Both models are run on the same token ids. Then, for each block, this model is run once more
    with the block's output put to what the other model had there, as a fine-tuned model is given
    its pretrained ancestor's states. ``recovered`` is ``(own - patched) / (own - other)``: 0 where
    this model answers as before, 1 where it answers as the other one; neither is a bound.

    Parameters
    ----------
    other
        The model that states are taken from: as many blocks of the same width, the same tokens.
    answer
    wrong
    metric
    positions
        Where states are replaced: an index, a slice, a list, the text of a span. None: everywhere.
    layers
        Blocks after which states are replaced; None for all.
    verify
    memory_limit
        Bytes of working memory above the models' own.

    Notes
    -----
    ``norm_ratio`` and ``cosine`` compare the states themselves, averaged over the positions:
    where they are far from 1, the patched model meets states that it never makes by itself.
    With several texts there are means with 95 % intervals (bootstrap over texts);
    ``recovered_mean`` is the ratio of means. Where both models' metrics are the same, there is
    nothing to recover and ``recovered`` is NaN.

    Raises
    ------
    InputError
        The other model does not fit, or an option does not.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> same = ll.cross_model_patch(model, [5, 9, 5], other=model)
    >>> bool(same.data.recovered.isnull().all())
    True
    """
    other = require_like(model, other, tokens)
    work = CrossModel(job, model, other, tokens, model.layers(layers))
    texts = len(tokens.ids)
    answers, wrongs = one_each(answer, texts, "answer"), one_each(wrong, texts, "wrong")
    work.declare()
    for row in range(texts):
        asked = {"answer": answers[row], "wrong": wrongs[row]}
        work.text(row, metric, asked, positions, verify, memory_limit)
    work.finish()
