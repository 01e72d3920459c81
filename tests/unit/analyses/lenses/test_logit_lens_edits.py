"""The lens over an edited run, against transformers with hooks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses import memory as lens_memory
from layerlens.model.lensmodel import LensModel

IDS = [5, 17, 200, 3, 90, 41, 300]
OTHER = [9, 2, 71, 44, 30, 12, 8]
VECTOR = torch.linspace(-2, 2, 24).roll(7)


def blocks(model: LensModel) -> Any:
    hf: Any = model.hf
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


def by_hand(model: LensModel) -> dict[str, np.ndarray]:
    """Log-probabilities ``[position, V]`` with ``VECTOR`` added after block 1 at positions 2, 3."""
    hf: Any = model.hf
    states: dict[str, torch.Tensor] = {}

    def see(_: Any, args: Any, output: Any) -> None:
        states["0_post"] = (output[0] if isinstance(output, tuple) else output).clone()

    def add(_: Any, args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[:, 2:4] += VECTOR
        states["1_post"] = state
        return (state, *output[1:]) if isinstance(output, tuple) else state

    first, second = blocks(model)[0], blocks(model)[1]
    handles = [first.register_forward_hook(see), second.register_forward_hook(add)]
    with torch.inference_mode():
        out = hf(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
    with torch.inference_mode():
        logits = {label: hf.lm_head(norm(state))[0] for label, state in states.items()}
    if cap := getattr(hf.config, "final_logit_softcapping", None):
        logits = {label: cap * torch.tanh(value / cap) for label, value in logits.items()}
    logits["final"] = out.logits[0]
    return {label: value.log_softmax(-1).numpy() for label, value in logits.items()}


@pytest.mark.parametrize("passes", [1, 2])
def test_every_row_is_that_of_the_edited_run(
    model: LensModel, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == 2:
        monkeypatch.setattr(lens_memory, "STORE_SHARE", 0.0)
    edit = ll.edit("resid_post.1", "add", VECTOR, position=slice(2, 4))
    found = ll.logit_lens(model, IDS, top_k=4, edits=[edit])
    expected = by_hand(model)
    final = expected["final"]
    for label, rows in expected.items():
        got = found.data.sel(point=label)
        best = np.sort(np.exp(rows), axis=-1)[:, ::-1][:, :4]
        np.testing.assert_allclose(got.probability, best, atol=2e-5)
        kl = (np.exp(final) * (final - rows)).sum(-1)
        np.testing.assert_allclose(got.kl_to_final, kl, atol=2e-4)
    assert found.checks.ok and found.data.attrs["passes"] == passes
    untouched = ll.logit_lens(model, IDS, top_k=4).data
    before = {"point": "1_post", "position": [0, 1, 4]}
    np.testing.assert_array_equal(
        found.data.probability.sel(before), untouched.probability.sel(before)
    )


def test_the_result_says_what_was_edited(gpt2: LensModel) -> None:
    edits = [ll.edit("z.1.0", "zero", position=-1), ll.edit("mlp_out.2", "resample", OTHER)]
    found = ll.logit_lens(gpt2, IDS, edits=edits)
    written = "[ll.edit('z.1.0', 'zero', position=-1), ll.edit('mlp_out.2', 'resample', "
    assert found.data.attrs["edits"].startswith(written)
    assert json.loads(found.data.attrs["options"])["edits"] == [edit.code for edit in edits]
    assert found.data.attrs["passes"] == 2  # the other text's, and the edited one
    again = eval(found.code, {"ll": ll, "model": gpt2})
    np.testing.assert_array_equal(again.data.probability, found.data.probability)
    assert "edits" not in ll.logit_lens(gpt2, IDS).code


def test_an_edit_without_effect_leaves_every_number(model: LensModel) -> None:
    plain = ll.logit_lens(model, IDS, tracked=[7])
    for edits in ((), ll.edit("resid_pre", "freeze", layer=range(3)), [ll.edit("z.0", "scale", 1)]):
        found = ll.logit_lens(model, IDS, tracked=[7], edits=edits)
        for name in plain.data.data_vars:
            np.testing.assert_array_equal(found.data[name], plain.data[name], err_msg=str(name))


def test_the_final_norm_can_be_edited_and_the_head_input_not(model: LensModel) -> None:
    edit = ll.edit("normalized", "set", VECTOR, position=[1, -1])
    found = ll.logit_lens(model, IDS, top_k=3, edits=edit)
    logits = ll.run(model, IDS, edit).logits[0].softmax(-1)
    best = logits.sort(-1, descending=True).values[:, :3]
    np.testing.assert_allclose(found.data.probability.sel(point="final"), best, atol=1e-5)
    assert found.checks.ok
    with pytest.raises(ll.InputError, match="edit normalized"):
        ll.logit_lens(model, IDS, edits=ll.edit("head_input", "zero"))


def test_other_runs_are_counted_and_steps_refused(gpt2: LensModel) -> None:
    edits = [ll.edit("z.1", "mean", [OTHER, IDS[:3]]), ll.edit("mlp_out.0", "freeze")]
    assert ll.logit_lens.work(gpt2, IDS, edits=edits).passes == 4
    assert ll.logit_lens(gpt2, IDS, edits=edits).data.attrs["passes"] == 4
    with pytest.raises(ll.InputError, match="generated tokens"):
        ll.logit_lens(gpt2, IDS, edits=ll.edit("z.1", "zero", steps="all"))
