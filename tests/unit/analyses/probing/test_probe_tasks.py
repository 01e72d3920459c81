"""Probes of several labels on one grid."""

from __future__ import annotations

import numpy as np
import pytest

import layerlens as ll
from layerlens.errors import InputError
from layerlens.views import GridView, view_of

TEXTS = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]


@pytest.fixture(scope="module")
def probes() -> dict[str, ll.Result]:
    model = ll.load("toy:induction")
    return {
        name: ll.probe(model, TEXTS, [t.split()[i] for t in TEXTS], folds=3, untrained=False)
        for name, i in (("last", 3), ("second", 1))
    }


def test_each_label_stands_above_its_control(probes: dict[str, ll.Result]) -> None:
    found = ll.probe_tasks(probes)
    for row, (name, of) in enumerate((n, o) for n in probes for o in ("probe", "control")):
        own = probes[name].data.sel(of=of)
        for array in ("accuracy", "accuracy_low", "accuracy_high"):
            np.testing.assert_array_equal(found.data[array][row], own[array])
    # also where names are cut off, a row is not called like its control
    assert found.data.task.values.tolist() == [
        "last", "control of last", "second", "control of second"
    ]  # fmt: skip
    gap = found.data.accuracy[::2].values - found.data.accuracy[1::2].values
    np.testing.assert_allclose(found.data.selectivity, gap)
    # the last word is what is read; the second is only before it
    assert float(found.data.accuracy.sel(task="last", point="embed")) == 1
    assert float(found.data.accuracy.sel(task="second", point="embed")) < 0.7
    assert len(found.checks) == sum(len(one.checks) for one in probes.values())


def test_it_is_drawn_as_a_grid(probes: dict[str, ll.Result]) -> None:
    found = ll.probe_tasks(probes)
    view = view_of(found)
    assert isinstance(view, GridView) and not view.live
    kinds = {array["name"]: array["kind"] for array in view.meta["arrays"]}
    assert kinds == {"accuracy": "grid", "selectivity": "grid"}
    assert found.figure().axes and found._repr_mimebundle_()[0]["image/png"]
    view.close()


def test_what_does_not_fit(probes: dict[str, ll.Result]) -> None:
    with pytest.raises(InputError, match="nothing to lay"):
        ll.probe_tasks({})
    with pytest.raises(InputError, match=r"expected a result of ll\.probe"):
        ll.probe_tasks({"a": 3})  # type: ignore[dict-item]
    model = ll.load("toy:induction")
    labels = [t[:3] for t in TEXTS]
    other = ll.probe(model, TEXTS, labels, folds=3, untrained=False, layers=[0])
    with pytest.raises(InputError, match="other points than the first"):
        ll.probe_tasks({**probes, "other": other})
