"""What the patch bench answers about patches that were picked by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError
from layerlens.views.patch_edits import normal, patches

if TYPE_CHECKING:
    import numpy as np

    from layerlens.analyses.patching.hand_patches import Bench
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.base import Reply
    from layerlens.views.one_run import Run
    from layerlens.views.worker import Task

DEFAULT_K, MAX_K = 10, 100


class Benches:
    """The bench of the pair that is shown, made when it is first asked."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._bench: Bench | None = None

    def get(self, model: LensModel, run: Run) -> Bench:
        """Return the bench of a run's question."""
        from layerlens.analyses.patching.hand_patches import Bench

        if self._bench is None or self._run is not run:
            given = run.resolved
            names = ("metric", "answer", "wrong", "direction", "align")
            exact = given.get("add_bos") is not None  # then only ids make the same tokens
            texts = {} if exact else {n: t for n, t in run.inputs.items() if isinstance(t, str)}
            self._bench = Bench(
                model,
                run.tokens["clean"],
                run.tokens["corrupt"],
                texts=texts,
                **{name: given[name] for name in names if name in given},
            )
            self._run = run
        return self._bench


def distribution(bench: Bench, params: dict[str, Any], task: Task) -> Reply:
    """Return how the run answers before and after some patches.

    Raises
    ------
    InputError
        A patch does not fit the model or the texts.
    Cancelled
        Nobody waits for it any more.
    """
    from layerlens.analyses.answers.next_tokens import moved_most

    edits = normal(params.get("edits") or [])
    k = max(1, min(int(params.get("k") or DEFAULT_K), MAX_K))
    if task.cancelled:
        raise Cancelled("The request was taken back.")
    before, after = bench.before, bench.after(patches(edits))
    metric = bench.metric
    also = [token for token in (metric.answer, metric.wrong) if token is not None]
    name = bench.model.token_string
    first, second = before.probabilities, after.probabilities
    shown = moved_most(first, second, k, also)
    tokens = [
        {"id": i, "text": name(i), "before": float(first[i]), "after": float(second[i])}
        for i in shown
    ]
    found = {
        "before": _top(bench, first, k),
        "after": _top(bench, second, k),
        "tokens": tokens,
        "metric": {
            "before": _finite(before.metric),
            "after": _finite(after.metric),
            "recovered": _finite(after.recovered),
        },
        "position": bench.pair.base.ids.shape[1] - 1,
        "edits": edits,
        "code": bench.code(patches(edits)),
    }
    return found, []


def code(bench: Bench, params: dict[str, Any], task: Task) -> Reply:
    """Return the Python that makes a run with some patches again."""
    return bench.code(patches(normal(params.get("edits") or []))), []


def lenses(bench: Bench, params: dict[str, Any], task: Task) -> Reply:
    """Return the logit lens of the run before and after some patches, each as a snapshot."""
    from layerlens.analyses.contract.registry import get
    from layerlens.export.meta import meta_of
    from layerlens.export.pack import frames_of, pack

    edits = bench.edits(patches(normal(params.get("edits") or [])))
    metric = bench.metric
    tracked = [token for token in (metric.answer, metric.wrong) if token is not None]
    packs = []
    for applied in ([], edits):
        options = {"tracked": tracked, **({"edits": applied} if applied else {})}
        result = get("logit_lens").run(bench.model, bench.pair.base, options, _Stoppable(task))
        packs.append(pack(meta_of(result.data, result.checks), frames_of(result.data)))
    sizes = {name: {"bytes": len(p)} for name, p in zip(("before", "after"), packs, strict=True)}
    return sizes, packs


class _Stoppable(Silent):
    def __init__(self, task: Task) -> None:
        self._task = task

    def cancelled(self) -> bool:
        return self._task.cancelled


def _top(bench: Bench, probabilities: np.ndarray, k: int) -> list[list[Any]]:
    best = probabilities.argsort()[::-1][:k].tolist()
    return [[i, bench.model.token_string(i), float(probabilities[i])] for i in best]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def entry(item: Any) -> dict[str, Any]:
    """Return an entry of the history, or say what is wrong with it.

    Raises
    ------
    InputError
        It is none.
    """
    if not isinstance(item, dict) or not {"edits", "metric", "recovered", "top"} <= set(item):
        raise InputError("An entry of the history is a dict of edits, metric, recovered and top.")
    return {**item, "edits": normal(item["edits"])}
