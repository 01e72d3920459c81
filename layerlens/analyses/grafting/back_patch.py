"""Back-patching: a late state of a prompt is put back at an earlier block of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.grafting.back_patch_answers import (
    VARIABLES,
)
from layerlens.analyses.grafting.back_patch_cell import open_back_patched
from layerlens.analyses.grafting.back_patch_text import BackPatch, layer_pairs
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.feed import ANY_KIND
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    pairs: str,
    generate: int,
    verify: int,
    into: Any,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen = model.layers(layers)
    cells = len(layer_pairs(chosen, "all" if into is not None else pairs))
    texts, length = tokens.ids.shape
    # A cell runs the blocks above its target: half of them on average, from its position on.
    passes = texts * (1 + (into is not None) + cells / (2 * length) + cells * bool(generate))
    passes += verify
    kept = 4 * model.d_model * length * model.n_layers * 3
    return Work(passes, texts * cells, kept + 4 * 64 * model.d_vocab)


@analysis(
    name="back_patch",
    question="Would the model answer if a late state were fed back to an early block?",
    source="Biran et al. (2024), Hopping Too Late, arXiv 2406.12775; Ghandeharioun et al. (2024), "
    "Patchscopes, arXiv 2401.06102",
    cost="1 pass and a replay of the later blocks for each pair of blocks",
    view="grid",
    lead="A cell feeds the state after a late block (row) back over an early one (column): "
    "blue makes the answer likelier than it was.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    effects={"aliases": given("generate")},
    opens=open_back_patched,
)
def back_patch(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    source: Any = -1,
    target: Any = None,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logprob",
    layers: Sequence[int] | None = None,
    pairs: str = "back",
    into: Any = None,
    generate: int = 0,
    aliases: Any = None,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Put the state after block s over the output of block t, for every pair of blocks.

    The prompt is run as it is; then, for each pair, once more with the output of block t at one
    position replaced by the state after block s from the unedited run. With s > t, a fact that
    was found too late for the blocks that need it comes early enough (back-patching). With
    ``into``, the state goes into another prompt, one that makes the model say what it holds
    (Patchscopes).

    Parameters
    ----------
    source
        Position that the state is taken from: an index, or the text of a token (of a span: its
        last token); for several texts also a list.
    target
        Position where it is put, likewise. None: the same position; with ``into``, its last one
        (a masked model's: at its mask token).
    answer
        The hoped-for next token, a string or an id; for several texts also a list. None: what
        the model answers by itself.
    wrong
    metric
    layers
        Blocks that states are taken from and put at; None for all.
    pairs
        ``"back"``: only s > t, and s = t, which must change nothing. ``"all"``: every pair.
    into
        Another text, in which the state is put; then all pairs are run and counted.
    generate
        Number of tokens to generate greedily with each pair that counts; success is then that
        the answer occurs in them. Costs one generation a pair: choose ``layers``.
    aliases
        Wordings of the answer that count in what is generated, whatever their case: a list, for
        several texts one list each. None: the answer token's own text.
    verify
    memory_limit

    Notes
    -----
    ``success`` says for s > t whether the model's top token is the answer (or, with ``generate``,
    whether the answer occurs in ``generated``); other cells of back-patching are -1. With several
    texts, ``success_rate`` is the share of texts. That *some* pair succeeds means little by
    itself: it is the best of many trials. So the notes hold, beside the number of successful
    pairs, the share of texts in which any pair succeeds (``any_pair_success``) and its control,
    that in which one pair drawn at random would (``random_pair_success``).

    Raises
    ------
    InputError
        An option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> grid = ll.back_patch(model, [5, 9, 7, 5], answer=9)
    >>> grid.data.metric.dims
    ('source', 'target')
    """
    if pairs not in ("back", "all"):
        raise nearest(str(pairs), ["back", "all"], "pairs:")
    goal = None if into is None else row_of(job.tokens(into), 0)
    work = BackPatch(job, model, tokens, model.layers(layers), pairs, goal)
    named = {"source": source, "target": target, "answer": answer, "wrong": wrong}
    texts = len(tokens.ids)
    each = {name: one_each(given, texts, name) for name, given in named.items()}
    each["aliases"] = one_each(aliases, texts, "aliases", alone=tokens.single)
    work.declare(generate)
    for row in range(texts):
        asked = {name: values[row] for name, values in each.items()}
        work.text(row, asked, metric, verify, memory_limit)
    work.finish()
