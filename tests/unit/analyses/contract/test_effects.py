"""An option that would change nothing is refused, in every analysis."""

from __future__ import annotations

from typing import Any

import pytest

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.effects import When, among, given, left_out, require_effect
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from ..conftest import build
from ..small_calls import ONE, OTHER, arguments

OTHERS = ("logprob", "zero", 3, 0, False, {"first": [1]})
"""Values of an option beside which another may have no effect, after its default."""


def needed(name: str, option: str) -> tuple[When, ...]:
    found = registry.get(name).effects[option]
    return (found,) if isinstance(found, When) else tuple(found)


CASES = [
    (name, option, when)
    for name in registry.names()
    for option in registry.get(name).effects
    for when in needed(name, option)
]


@pytest.fixture(scope="module")
def gpt2() -> LensModel:
    return build("gpt2")


def another(value: Any) -> Any:
    """A value that is not the default."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else "other" if isinstance(value, str) else 3


@pytest.mark.parametrize(("name", "option", "when"), CASES, ids=lambda value: str(value)[:20])
def test_what_would_change_nothing_is_refused_before_anything_runs(
    gpt2: LensModel, name: str, option: str, when: When
) -> None:
    asked = registry.get(name)
    texts, options = arguments(name, gpt2)
    usual = asked.options[when.option]
    others = (not usual,) if isinstance(usual, bool) else OTHERS
    beside = next(v for v in (usual, *others) if not when.holds(v))
    call = {**options, option: another(asked.options[option]), when.option: beside}
    sentence = f"{option} of {name} has an effect only "
    passes: list[int] = []
    hook = gpt2.hf.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(InputError, match=sentence):
            asked(gpt2, *texts, **call)
        with pytest.raises(InputError, match=sentence):
            asked.estimate(gpt2, *texts, **call)
    finally:
        hook.remove()
    assert not passes


def test_every_metric_of_answers_says_when_a_wrong_answer_counts() -> None:
    having = [n for n in registry.names() if {"metric", "wrong"} <= registry.get(n).options.keys()]
    assert len(having) >= 8
    for name in having:
        needs = [when for when in needed(name, "wrong") if when.option == "metric"]
        assert [when.holds("logit_diff") for when in needs] == [True], name
        assert not any(when.holds(len) or when.holds("logprob") for when in needs), name


def test_beside_what_it_needs_it_counts(gpt2: LensModel) -> None:
    one, other = (
        ll.patch_sweep(gpt2, ONE, OTHER, answer=17, wrong=wrong).data.attrs["clean_metric"]
        for wrong in (20, 30)
    )
    assert one != other
    with pytest.raises(InputError, match="wrong of patch_sweep has an effect only with metric="):
        ll.patch_sweep(gpt2, ONE, OTHER, answer=17, wrong=20, metric=lambda logits: logits[:, 0])


def test_a_default_may_always_be_said() -> None:
    effects = {
        "draws": among("how", "resample"),
        "aliases": given("generate"),
        "subject": left_out("sources"),
    }
    defaults = {"draws": 10, "how": "mean", "aliases": None, "generate": 0, "subject": None}
    defaults |= {"sources": None}
    require_effect(defaults, defaults, effects, "made")
    for option, beside in ((("draws", 3), {}), (("aliases", ["a"]), {"generate": 0})):
        with pytest.raises(InputError, match="leave it out, or change"):
            require_effect({**defaults, **dict([option]), **beside}, defaults, effects, "made")
    require_effect({**defaults, "draws": 3, "how": "resample"}, defaults, effects, "made")
    require_effect({**defaults, "aliases": ["a"], "generate": 2}, defaults, effects, "made")
    with pytest.raises(InputError, match="subject of made has an effect only where sources is"):
        require_effect({**defaults, "subject": 1, "sources": [0]}, defaults, effects, "made")
