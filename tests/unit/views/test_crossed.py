"""Two models of one call are held in one order, so that crossed calls never wait for each other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import estimate
from layerlens.analyses.grafting import cross_model_patch
from layerlens.model.lensmodel import LensModel
from layerlens.model.together import running_together

TEXT = [5, 9, 5, 3]


@pytest.fixture(scope="module")
def models() -> list[LensModel]:
    return [ll.load("toy:induction") for _ in range(2)]


def crossed(models: list[LensModel], call: Callable[[LensModel, LensModel], Any]) -> list[Any]:
    """Call with the models this way and that way on two threads; what came back of those."""
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda pair=pair: found.append(call(*pair)), daemon=True)
        for pair in (models, models[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def met(both: threading.Barrier) -> None:
    """Wait for the other thread, as long as that could come."""
    with contextlib.suppress(threading.BrokenBarrierError):
        both.wait(0.3)


def test_crossed_calls_end(models: list[LensModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would hold its own model when it asks for the other's."""
    both = threading.Barrier(2)
    own = cross_model_patch.require_like

    def inside(*given: Any) -> Any:
        met(both)
        return own(*given)

    monkeypatch.setattr(cross_model_patch, "require_like", inside)
    found = crossed(models, lambda one, two: ll.cross_model_patch(one, TEXT, other=two))
    assert len(found) == 2


def test_crossed_views_end(
    models: list[LensModel], monkeypatch: pytest.MonkeyPatch, front_end: None
) -> None:
    """Each estimates what the other's model takes before its run begins."""
    both = threading.Barrier(2)
    own = estimate._operations_per_second

    def between(model: LensModel, *rows: int) -> Any:
        met(both)
        return own(model, *rows)

    monkeypatch.setattr(estimate, "_operations_per_second", between)
    views = crossed(
        models, lambda one, two: ll.GridView(one, "ablate_sweep", TEXT, how="zero", other=two)
    )
    for view in views:
        view.wait(20)
        assert "other.effect" in view.result.data
        view.close()


def test_it_runs_as_the_model_does(models: list[LensModel]) -> None:
    one, two = models
    with running_together(one, ["no model", 3, two], tick=list, gradients=True):
        assert torch.is_grad_enabled()
        assert one.passes == 1
        taken = threading.Thread(target=lambda: free.append(two.lock.acquire(timeout=0)))
        free: list[bool] = []
        taken.start()
        taken.join()
        assert free == [False]
