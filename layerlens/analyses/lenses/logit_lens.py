"""The logit lens: what the model would answer if it stopped at a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.lenses.lens import VARIABLES, Lens
from layerlens.analyses.lenses.memory import plan_memory
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.errors import InputError
from layerlens.run.edit_lists import as_edits, code_of
from layerlens.run.edits import Edit
from layerlens.run.resolve import Resolved, count_runs, resolve_counted

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_POINTS = ("embed", "mid", "post")
DEFAULT_LIMIT = 400_000_000


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    top_k: int,
    points: str | Sequence[str],
    tracked: Sequence[str | int],
    positions: Any,
    edits: Edit | Iterable[Edit],
    memory_limit: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    chosen = lens_points(model, points)
    cells = Cells(model, tokens, positions)
    plan = plan_memory(model, len(chosen), len(cells), top_k, len(tracked), memory_limit)
    rows = (len(chosen) + 1) * len(cells) + (len(chosen) + 1) * len(cells.last)
    again = 1 if plan.linear else 2 if not plan.store else 1
    compared = len(cells) if plan.linear else again * len(chosen) * len(cells)
    others = count_runs(model, tokens, edits)
    return Work(1 + (not plan.store) + others, rows + compared, plan.bytes)


@analysis(
    name="logit_lens",
    question="What would the model answer if it stopped at this layer?",
    source="nostalgebraist, interpreting GPT: the logit lens (2020)",
    cost="1 pass (2 for long texts), plus one product of every row with the head",
    view="lens",
    lead="Each row is a depth, each column a token: the word in a cell is what the model would "
    "say next if it stopped there.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
)
def logit_lens(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    top_k: int = 5,
    points: str | Sequence[str] = DEFAULT_POINTS,
    tracked: Sequence[str | int] = (),
    positions: Any = None,
    edits: Edit | Iterable[Edit] = (),
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Decode every state of the residual stream with the model's own norm and head.

    The final norm's statistics are those of each row itself; scale, bias and soft-cap of the head
    are applied; the row ``final`` is what the model itself feeds its head.

    Parameters
    ----------
    top_k
        How many predictions to keep at each point and position.
    points
        Kinds of points (``embed``, ``mid``, ``post``; ``attn_out`` and ``mlp_out`` decode one
        sublayer's output alone) or labels such as ``"7_post"``.
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

    Raises
    ------
    InputError
        An option does not fit.
    MemoryLimitError
        The limit is too small even for the smallest chunk.
    LayerLensError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> lens = ll.logit_lens(model, "cat dog owl cat", tracked=["dog"])
    >>> lens.data.tracked_rank.sel(point="final").values[-1].tolist()
    [1]
    """
    if not 1 <= top_k <= model.d_vocab:
        raise InputError(f"top_k is {top_k}; expected 1 to {model.d_vocab}.")
    names = (tracked,) if isinstance(tracked, str | int) else tuple(tracked)
    lens = Lens(
        job,
        model,
        tokens,
        lens_edits(job, model, tokens, edits),
        Cells(model, tokens, positions),
        lens_points(model, points),
        top_k,
        [model.token_id(token) for token in names],
        memory_limit,
        decode=lambda point, state: model.head_input(state),
    )
    lens.run()


def lens_edits(
    job: Job, model: LensModel, tokens: Tokens, edits: Edit | Iterable[Edit]
) -> Resolved:
    """What edits change in a run that a lens decodes; the result says which they were."""
    found = as_edits(edits)
    if any(edit.kind == "head_input" for edit in found):
        raise InputError(
            "A lens decodes states itself, so an edit of head_input would not show: edit "
            "normalized, or the last resid_post."
        )
    if found:
        job.note(edits=code_of(found))
    return resolve_counted(model, tokens, found)
