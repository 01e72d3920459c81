"""What a cell of ``back_patch`` opens: the next token before and after the state is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.next_tokens import chances, chances_with, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import row_of
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.changes import Change
from layerlens.run.edits import Edit, edit
from layerlens.run.values import source as from_run

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_back_patched(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    source: Any,
    target: Any,
    into: Any,
    **_: Any,
) -> Opened:
    """Run the prompt once more with the state after one block over the output of another."""
    taken_after, put_after = int(place.need("source")), int(place.need("target"))
    text = row_of(tokens, 0)
    first = record_base(model, text)
    base = first if into is None else record_base(model, row_of(job.tokens(into), 0))
    job.tick()
    taken = model.positions(text, source)[-1]
    same = taken if into is None else base.at
    put = same if target is None else model.positions(base.tokens, target)[-1]
    state = first.state(taken_after + 1)[taken]
    change = Change(Site("resid_post", put_after), "set", state, (put,))
    conditions = {
        "as it is": chances(model, base.final),
        "patched": chances_with(model, base, [change]),
    }
    return Opened(
        title=f"The next token with the state after block {taken_after} put after {put_after}",
        code=_code(place, into, (taken_after, taken), (put_after, put)),
        tables=[next_token_table(model, conditions)],
    )


def _code(place: Place, into: Any, taken: tuple[int, int], put: tuple[int, int]) -> str:
    given = place.one_text
    edits: list[Edit] = []
    if into is None and given is not None:
        state = from_run(given, f"resid_post.{taken[0]}", taken[1])
        edits = [edit(f"resid_post.{put[0]}", "set", state, position=put[1])]
    return place.run_with(edits)
