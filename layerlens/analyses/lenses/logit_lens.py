"""The logit lens: what the model would answer if it stopped at a layer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.lenses.comparison import with_one
from layerlens.analyses.lenses.given import Given
from layerlens.analyses.lenses.lens import Lens
from layerlens.analyses.lenses.memory import plan_memory
from layerlens.analyses.lenses.readers import LOGIT, tell_steadiness
from layerlens.analyses.lenses.readers import Lens as AnyLens
from layerlens.analyses.lenses.remote_lens import RemoteLens
from layerlens.analyses.lenses.variables import VARIABLES, apart
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.feed import ANY_KIND
from layerlens.run.edit_lists import as_edits, code_of
from layerlens.run.edits import Edit
from layerlens.run.resolve import Resolved, count_runs, resolve_counted

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    top_k: int,
    points: str | Sequence[str] | None,
    lens: AnyLens | Sequence[AnyLens],
    against: str | None,
    tracked: Sequence[str | int],
    positions: Any,
    edits: Edit | Iterable[Edit],
    memory_limit: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    given = Given(model, lens, points, against)
    ways, chosen, cells = len(given.readers), len(given.points), Cells(model, tokens, positions)
    maps, operations = given.cost(len(cells))
    plan = plan_memory(
        model, chosen, len(cells), top_k, len(tracked), memory_limit, ways=ways, maps=maps
    )
    rows = (ways * chosen + 1) * (len(cells) + len(cells.last))
    again = 1 if plan.linear else 2 if not plan.store else 1
    compared = len(cells) if plan.linear else again * ways * chosen * len(cells)
    between = 2 * (ways - 1) * (chosen + 1) * len(cells)
    passes = 1 + (not plan.store) + count_runs(model, tokens, edits)
    return Work(passes, rows + compared + between, plan.bytes, operations=float(operations))


@analysis(
    name="logit_lens",
    question="What would the model answer if it stopped at this layer?",
    source="nostalgebraist (2020), interpreting GPT: the logit lens, LessWrong",
    cost="1 pass (2 for long texts), plus one product of every row with the head, and with several "
    "lenses two more to compare them",
    view="lens",
    lead="Each row is a depth, each column a token: the word in a cell is what the model would "
    "say next if it stopped there.",
    variables={**VARIABLES, **apart("lens", "point", "position")},
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    remote=True,
)
def logit_lens(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    top_k: int = 5,
    points: str | Sequence[str] | None = None,
    lens: AnyLens | Sequence[AnyLens] = LOGIT,
    against: str | None = None,
    tracked: Sequence[str | int] = (),
    positions: Any = None,
    edits: Edit | Iterable[Edit] = (),
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Decode every state of the residual stream with the model's own norm and head.

    The final norm's statistics are those of each row itself; scale, bias and soft-cap of the head
    are applied; the row ``final`` is what the model itself feeds its head. A lens that was fitted
    moves each state by its map first; several read the same pass.

    Parameters
    ----------
    top_k
        How many predictions to keep at each point and position.
    points
        Kinds of points (``embed``, ``mid``, ``post``; ``attn_out`` and ``mlp_out`` decode one
        sublayer's output alone) or labels such as ``"7_post"``; None for ``embed``, ``mid`` and
        ``post``, and with fitted lenses for the points that all of them have a map for, and the
        last state.
    lens
        What a state goes through on its way to the head: ``"logit"`` for nothing, a lens that was
        fitted on this model (``Fitted``), or the path of its file; ``"sublayer"`` reads at each
        state what the sublayer before it wrote (attention at ``mid``, the MLP at ``post``), alone.
        A list of them gives all variables an axis ``lens``, and compares each with one.
    against
        Name of the lens that the others are compared with; None for the first.
    tracked
        Tokens, as strings or ids, whose probability and rank are wanted everywhere.
    positions
        Which positions: an index, a slice, a list, or the text of a span; None for all.
    edits
        What to change while the model runs (``ll.edit``): the lens is then that of the edited
        run, and a point that is edited is decoded after the edit.
    memory_limit

    Notes
    -----
    Variables over (``point``, ``position``): see ``ll.logit_lens.variables``. Ranks count from 1;
    a rank is one more than the number of larger logits, so ties do not count against a token.
    ``target_id`` is the next token of the text, and at its end the model's own answer; in a model
    that reads in both directions (BERT) there is no next token, so it is the model's own answer at
    mask tokens, and missing elsewhere.
    ``first_layer`` and ``settle_layer`` hold the ``layer`` coordinate of the points with the
    indices ``first_point`` and ``settle_point``; sublayer rows do not count for them. Missing
    integers are -1 (layers: -2, because -1 is ``embed``), missing numbers NaN.

    With several lenses ``change`` is how much more probability a lens gives to the token that the
    one `against` has on top, ``tracked_change`` the same for tracked tokens, and ``kl_between`` is
    ``KL(P_against || P)`` in nats. The coordinate ``heldout_kl`` holds ``KL(P_final || P)`` of each
    lens and point on the texts that were set apart when it was fitted, where that is known, and
    ``heldout_uniform`` that of a uniform guess there, ``ln d_vocab`` less the mean entropy of the
    final answer: above it a lens does worse. ``lenses`` among the attributes says where each comes
    from.

    Raises
    ------
    InputError
        An option does not fit.
    MemoryLimitError
        The limit is too small even for the smallest chunk, or for the states of several lenses.
    LayerLensError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> lens = ll.logit_lens(model, "cat dog owl cat", tracked=["dog"])
    >>> lens.data.tracked_rank.sel(point="final").values[-1].tolist()
    [1]
    >>> both = ll.logit_lens(model, "cat dog owl cat", lens=["logit", "logit"])
    >>> both.data.lens.values.tolist(), float(both.data.kl_between.max())
    (['logit', 'logit 2'], 0.0)
    """
    if not model.answers_words:
        top_k = min(top_k, model.d_vocab)  # there may be fewer classes than anyone thinks of
    if not 1 <= top_k <= model.d_vocab:
        raise InputError(f"top_k is {top_k}; expected 1 to {model.d_vocab}.")
    names = (tracked,) if isinstance(tracked, str | int) else tuple(tracked)
    given = Given(model, lens, points, against)
    cells = Cells(model, tokens, positions)
    if model.remote is not None and (given.names is not None or given.readers[0].name != LOGIT):
        raise InputError(
            f"{model.name} runs elsewhere, where states are decoded as they are: use lens='logit'."
        )
    work = (Lens if model.remote is None else RemoteLens)(
        job,
        model,
        tokens,
        lens_edits(job, model, tokens, edits),
        cells,
        given.points,
        top_k,
        [model.token_id(token) for token in names],
        memory_limit,
        decoders=[reader.decode for reader in given.readers],
        reads=[reader.sites for reader in given.readers],
        ways=given.names,
        maps=given.cost(len(cells))[0],
    )
    if len(given.readers) > 1 and not work.plan.store:
        raise MemoryLimitError(
            f"The states of {len(given.readers)} lenses do not fit into {memory_limit / 1e6:.0f} "
            "MB: raise memory_limit, or ask for fewer positions, points or lenses."
        )
    _tell(job, work, given)
    work.run()
    if given.names is not None:
        with_one(job, work, given.against)


def _tell(job: Job, work: Lens, given: Given) -> None:
    """Say what lenses read, where any was fitted or there are several."""
    if given.names is None and given.readers[0].name == LOGIT:
        return
    job.note(lenses=json.dumps(given.told(), ensure_ascii=False))
    for reader in given.readers:
        tell_steadiness(job, reader)
    if given.names is not None:
        job.note(lens_against=given.names[given.against])
    heldout = given.heldout()
    if heldout is not None:
        work.coords["heldout_kl"] = (
            (("point",), heldout[0]) if given.names is None else (("lens", "point"), heldout)
        )
        uniform = given.uniform()
        work.coords["heldout_uniform"] = (
            ((), uniform[0]) if given.names is None else (("lens",), uniform)
        )


def lens_edits(
    job: Job, model: LensModel, tokens: Tokens, edits: Edit | Iterable[Edit]
) -> Resolved:
    """What edits change in a run that a lens decodes; the result says which they were."""
    return resolve_counted(model, tokens, shown_edits(job, edits))


def shown_edits(job: Job, edits: Edit | Iterable[Edit]) -> tuple[Edit, ...]:
    """Edits that a lens can show; the result says which they were.

    Raises
    ------
    InputError
        One is of what the head is given, which a lens does not read.
    """
    found = as_edits(edits)
    if any(edit.kind == "head_input" for edit in found):
        raise InputError(
            "A lens decodes states itself, so an edit of head_input would not show: edit "
            "normalized, or the last resid_post."
        )
    if found:
        job.note(edits=code_of(found))
    return found
