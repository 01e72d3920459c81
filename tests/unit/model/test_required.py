"""Wherever a model is taken, anything else is refused with the way to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import layerlens as ll
from layerlens.errors import InputError
from layerlens.model.tiny import tiny_model

CALLS: list[Callable[[Any], object]] = [
    lambda model: ll.logit_lens(model, "a"),
    lambda model: ll.patch_sweep(model, "a", "b"),
    lambda model: ll.record(model, "a", "resid_post"),
    lambda model: ll.run(model, "a"),
    lambda model: ll.run_layers(model, "a"),
    lambda model: ll.generate_layers(model, "a", [0]),
    lambda model: ll.layer_metrics(model, ["a"], "residual_norm"),
    lambda model: ll.source("a", model=model),
    lambda model: ll.LensView(model, "a"),
    lambda model: ll.PatchView(model, "a", "b"),
    lambda model: ll.MetricsView(model, ["a"]),
    lambda model: ll.explore(model, "a"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_name_is_no_model(call: Callable[[Any], object]) -> None:
    with pytest.raises(InputError, match=r"write ll\.load\('toy:induction'\)"):
        call("toy:induction")


def test_each_kind_has_its_way() -> None:
    toy = ll.load("toy:modular")
    for other, how in (
        (tiny_model("llama"), r"ll\.load\(hf_model, tokenizer\)"),
        (3, "give one from ll.load"),
    ):
        with pytest.raises(InputError, match=how):
            ll.run(other, [1])  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"other is a model.*{how}"):
            ll.compare_models(toy, [[1, 2]], other=other)
    with pytest.raises(InputError, match=r"ll\.load\(\) for the default one"):
        ll.run(None, [1])  # type: ignore[arg-type]
