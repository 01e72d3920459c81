"""Models that read in both directions answer at their mask token, or are refused at once."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.errors import InputError, LayerLensError
from layerlens.model.lensmodel import LensModel

from ..conftest import build
from ..masked import bert
from ..small_calls import NAMES, ONE, OTHER, arguments

AT = ONE.index(1)


@pytest.fixture(scope="module")
def masked() -> LensModel:
    return bert()


@pytest.fixture(scope="module", params=["masked", "causal"])
def either(request: pytest.FixtureRequest, masked: LensModel) -> LensModel:
    return masked if request.param == "masked" else build("gpt2")


def own_logits(model: LensModel, ids: list[int], at: int = AT) -> torch.Tensor:
    with torch.inference_mode():
        return model.hf(torch.tensor([ids])).logits[0, at].float()


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_answers_with_all_checks_or_refuses_before_anything_runs(
    either: LensModel, name: str
) -> None:
    texts, options = arguments(name, either)
    passes: list[Any] = []
    hook = either.hf.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
    try:
        found = registry.get(name).run(
            either,
            dict(zip(registry.get(name).inputs, texts, strict=False)),
            _options(name, texts, options),
        )
    except LayerLensError as error:
        sentence = str(error)
        assert either.bidirectional, sentence
        assert not passes, sentence
        assert "tiny bert" in sentence
        assert sentence.count(". ") == 0
    else:
        assert [check for check in found.checks if not check.ok] == []
        assert found.data.attrs["complete"] == 1
    finally:
        hook.remove()


def _options(name: str, texts: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options that stand after the texts, by their names."""
    asked = registry.get(name)
    return options | dict(zip(asked.positional, texts[len(asked.inputs) :], strict=False))


def test_what_is_measured_is_said_at_the_mask(masked: LensModel) -> None:
    right, wrong = 17, 20
    grid = ll.patch_sweep(masked, ONE, OTHER, answer=right, wrong=wrong, site="resid_post")
    for name, ids in (("clean", ONE), ("corrupt", OTHER)):
        logits = own_logits(masked, ids)
        difference = float(logits[right] - logits[wrong])
        assert grid.data.attrs[f"{name}_metric"] == pytest.approx(difference, abs=1e-4)
    assert "last row" in {check.name for check in grid.checks}
    last = grid.data.recovered.isel(layer=-1).values
    np.testing.assert_allclose(np.delete(last, AT), 0, atol=1e-4)
    assert last[AT] == pytest.approx(1, abs=1e-4)


def test_paths_and_skipped_layers_answer_at_the_mask(masked: LensModel) -> None:
    logits = own_logits(masked, ONE)
    chain = ll.chain_of_layers(masked, ONE, simulations=2, baseline=False)
    assert chain.data.attrs["answer_id"] == int(logits.argmax())
    skipped = ll.skip_layers(masked, ONE, answer=17, keep_first=False)
    off: list[torch.Tensor] = []
    with masked.edited(ll.edit("resid_post.0", "set", ll.source(ONE, "resid_pre.0"))):
        off.append(own_logits(masked, ONE))
    chance = float(off[0].softmax(-1)[17])
    assert float(skipped.data.answer_probability[0]) == pytest.approx(chance, rel=1e-3)


def test_an_edit_by_hand_is_judged_at_the_mask(masked: LensModel) -> None:
    from layerlens.analyses.patching.hand_patches import Bench

    bench = Bench(masked, masked.tokens(ONE), masked.tokens(OTHER), answer=17, wrong=20)
    logits = own_logits(masked, OTHER)
    assert bench.ends[1] == pytest.approx(float(logits[17] - logits[20]), abs=1e-4)
    np.testing.assert_allclose(bench.before.probabilities, logits.softmax(-1), atol=1e-5)


def test_noise_reaches_the_positions_before_it(masked: LensModel) -> None:
    trace = ll.causal_trace(masked, ONE, subject=[3], samples=2, metric="logit")
    assert np.abs(trace.data.indirect_effect.sel(position=0)).max() > 1e-3
    assert not any(check.name.startswith("no effect before") for check in trace.checks)
    everything = ll.causal_trace(masked, ONE, samples=1)
    assert json.loads(everything.data.attrs["subject_positions"]) == [[0, 1, 3, 4, 5]]


@pytest.mark.parametrize(("ids", "count"), [([5, 9, 3], 0), ([5, 1, 1, 9], 2)])
def test_a_text_without_just_one_mask_is_refused(
    masked: LensModel, ids: list[int], count: int
) -> None:
    with pytest.raises(InputError, match=rf"put one '\[MASK\]' into the text, which has {count}"):
        ll.back_patch(masked, ids)


def test_a_masked_model_whose_mask_is_unknown_is_refused(masked: LensModel) -> None:
    alone = LensModel.wrap(masked.hf, None, name="alone", prove=False)
    with pytest.raises(InputError, match="no tokenizer says which one that is"):
        ll.back_patch(alone, ONE)


def test_a_packed_run_is_refused_where_an_edit_reaches_back(masked: LensModel) -> None:
    with pytest.raises(InputError, match="which a packed run leaves out: use method='auto'"):
        ll.patch_sweep(masked, ONE, OTHER, method="packed")
    assert not math.isnan(float(ll.patch_sweep(masked, ONE, OTHER).data.recovered.max()))
