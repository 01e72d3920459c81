"""Attribution patching against plain autograd, and where the estimate is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.analyses.patching.softmax_effects import _column_effects
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

CLEAN, CORRUPT = [5, 9, 17, 4, 11, 8], [5, 9, 30, 4, 11, 2]
OPTIONS: dict[str, Any] = {"answer": 7, "wrong": 21}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return LensModel.wrap(tiny_model(request.param), None, name=request.param, prove=False)


def attribute(model: LensModel, **options: Any) -> Any:
    return ll.attribution_patch(model, CLEAN, CORRUPT, **{**OPTIONS, **options})


def sweep(model: LensModel, **options: Any) -> Any:
    result = ll.patch_sweep(model, CLEAN, CORRUPT, verify=0, **{**OPTIONS, **options})
    return result.data.metric - result.data.attrs["corrupt_metric"]


# The naive computation


def blocks_of(model: LensModel) -> Any:
    hf = model.hf
    return {
        "llama": lambda: hf.model.layers,
        "gemma2": lambda: hf.model.layers,
        "gpt2": lambda: hf.transformer.h,
        "gpt_neox": lambda: hf.gpt_neox.layers,
    }[model.name]()


def plain_states(model: LensModel, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """Outputs of the blocks, with their graph, and the logit difference."""
    seen: list[Tensor] = []

    def after(module: Any, args: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        state.retain_grad()
        seen.append(state)

    hooks = [block.register_forward_hook(after) for block in blocks_of(model)]
    logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return seen, logits[7] - logits[21]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_it_is_the_change_times_the_gradient(model: LensModel, direction: str) -> None:
    base, other = (CORRUPT, CLEAN) if direction == "denoise" else (CLEAN, CORRUPT)
    states, difference = plain_states(model, base)
    difference.backward()
    others, _ = plain_states(model, other)
    expected = [
        ((there - here) * here.grad).sum(-1)[0].detach()  # type: ignore[operator]
        for here, there in zip(states, others, strict=True)
    ]
    model.hf.zero_grad()
    result = attribute(model, site="resid_post", direction=direction)
    np.testing.assert_allclose(result.data.attribution, torch.stack(expected), atol=1e-4, rtol=1e-3)
    assert "slope" in [check.name for check in result.checks if check.ok]
    assert result.data.attrs["passes"] > 5


@pytest.mark.parametrize("by", ["position", "head", "head_position"])
def test_heads_add_up_to_the_attention_output(model: LensModel, by: str) -> None:
    """The output projection is linear, so the parts of z have the effects of the sum."""
    whole = attribute(model, site="attn_out", verify=0).data.attribution
    heads = attribute(model, site="z", by=by, verify=0).data.attribution
    if by != "position":
        heads = heads.sum("head")
    if by == "head":
        whole = whole.sum("position")
    if model.name == "gemma2":  # a norm stands between the heads and what is added
        assert heads.shape == whole.shape
        return
    np.testing.assert_allclose(heads, whole, atol=1e-4)


def test_neurons_add_up_to_the_mlp_output(model: LensModel) -> None:
    whole = attribute(model, site="mlp_out", verify=0).data.attribution
    neurons = attribute(model, site="mlp_post", by="neuron", layers=[0, 1], verify=0)
    if model.name == "gemma2":  # a norm stands between the neurons and what is added
        assert neurons.data.attribution.shape[0] == 2
        return
    found = neurons.data.attribution.sum("neuron")
    np.testing.assert_allclose(found, whole.sum("position")[:2], atol=1e-4)


# Where it is exact


@pytest.fixture(scope="module")
def linear() -> LensModel:
    """A GPT-2 without norms and activations that attends equally everywhere: one linear map."""
    hf: Any = tiny_model("gpt2")
    width = hf.config.n_embd
    for block in hf.transformer.h:
        block.ln_1, block.ln_2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
        with torch.no_grad():
            block.attn.c_attn.weight[:, : 2 * width] = 0
            block.attn.c_attn.bias[: 2 * width] = 0
    hf.transformer.ln_f = nn.Identity()
    return LensModel.wrap(hf, None, name="linear", prove=False)


@pytest.mark.parametrize(
    "site", ["embed", "resid_pre", "attn_out", "mlp_out", "z", "v", "mlp_post"]
)
def test_it_is_exact_in_a_linear_model(linear: LensModel, site: str) -> None:
    """H(1)."""
    truth = sweep(linear, site=site)
    found = attribute(linear, site=site)
    scale = float(np.abs(truth).max())
    np.testing.assert_allclose(found.data.attribution, truth, atol=1e-4 * max(scale, 1))
    if site != "embed":  # which has two cells only
        assert found.data.attrs["pearson"] == pytest.approx(1, abs=1e-4)
    assert found.data.attrs["overlap"] == 1
    assert all(check.ok for check in found.checks)


@pytest.fixture(scope="module")
def sums_at_the_end() -> LensModel:
    """A GPT-2 without a final norm: what the last block writes is added to the logits."""
    hf: Any = tiny_model("gpt2")
    hf.transformer.ln_f = nn.Identity()
    hf.transformer.h[-1].mlp.c_proj.weight.data.zero_()
    return LensModel.wrap(hf, None, name="no final norm", prove=False)


def test_it_is_exact_where_only_sums_follow(sums_at_the_end: LensModel) -> None:
    """H(2): the last block's attention, heads and pattern."""
    model = sums_at_the_end
    for site in ("attn_out", "z", "pattern", "v"):
        truth = sweep(model, site=site, by="position", layers=-1)
        found = attribute(model, site=site, by="position", layers=-1, verify=0).data.attribution
        np.testing.assert_allclose(found, truth, atol=2e-4)


@pytest.mark.parametrize("by", ["head", "position", "head_position"])
@pytest.mark.parametrize("site", ["q", "k"])
def test_the_qk_fix_is_exact_where_only_sums_follow_the_pattern(
    sums_at_the_end: LensModel, site: str, by: str
) -> None:
    model = sums_at_the_end
    truth = sweep(model, site=site, by=by, layers=-1)
    fixed = attribute(model, site=site, by=by, layers=-1, verify=0)
    np.testing.assert_allclose(fixed.data.attribution, truth, atol=2e-4)
    plain = attribute(model, site=site, by=by, layers=-1, verify=0, qk_fix=False)
    assert float(np.abs(plain.data.attribution - truth).max()) > 1e-3
    assert "softmax" in fixed.data.attrs["method"]


def test_the_qk_fix_with_shared_keys() -> None:
    """Key-value heads: the effect of one is that of all its query heads."""
    hf: Any = tiny_model("llama")
    hf.model.norm = nn.Identity()
    hf.model.layers[-1].mlp.down_proj.weight.data.zero_()
    model = LensModel.wrap(hf, None, name="llama", prove=False)
    assert model.n_kv_heads < model.n_heads
    for by in ("head", "head_position"):
        truth = sweep(model, site="k", by=by, layers=-1)
        found = attribute(model, site="k", by=by, layers=-1, verify=0).data.attribution
        np.testing.assert_allclose(found, truth, atol=2e-4)


def test_one_changed_score_renews_its_row() -> None:
    torch.manual_seed(0)
    scores, gradient = torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    rise = torch.zeros(3, 1, 4)
    rise[1, 0, 2], rise[2, 0, 2] = 1.5, -60.0
    old = scores.softmax(-1)
    expected = (((scores + rise).softmax(-1) - old) * gradient).sum()
    found = _column_effects(old, rise, gradient)
    assert float(found[2, 0]) == pytest.approx(float(expected), abs=1e-5)
    assert found[[0, 1, 3]].abs().max() < 1e-6


# Integrated gradients, GradDrop


def test_integrated_gradients_add_up_to_the_difference(model: LensModel) -> None:
    """H(4): the error falls with the number of steps."""
    errors = []
    for steps in (1, 60):
        data = attribute(model, site="embed", steps=steps, verify=0).data
        whole = data.attrs["clean_metric"] - data.attrs["corrupt_metric"]
        errors.append(abs(float(data.attribution.sum()) - whole))
        shared = data.attribution.values[0, [0, 1, 3, 4]]
        np.testing.assert_array_equal(shared, 0)
    assert errors[1] < 0.02 * abs(whole) + 1e-3
    assert errors[1] < errors[0]


def test_grad_drop_is_a_mean_over_blocks(model: LensModel) -> None:
    """In the last block nothing follows: without any other block its effect is the same."""
    plain = attribute(model, site="mlp_out", layers=-1, verify=0).data.attribution
    dropped = attribute(model, site="mlp_out", layers=-1, verify=0, grad_drop=True)
    np.testing.assert_allclose(dropped.data.attribution, np.abs(plain), atol=1e-4)
    assert dropped.data.attrs["passes"] > 3 * model.n_layers


# Everything around it


def test_equal_texts_have_no_effect(model: LensModel) -> None:
    """H(5)."""
    for options in ({}, {"steps": 2}, {"site": "q"}):
        data = ll.attribution_patch(model, CLEAN, CLEAN, **options).data  # type: ignore[arg-type]
        np.testing.assert_array_equal(data.attribution, 0)
        assert data.recovered.isnull().all()


def test_some_cells_are_patched_truly(model: LensModel) -> None:
    result = attribute(model, site="z", verify=3)
    truth = sweep(model, site="z")
    patched = result.data.patched
    done = patched.notnull()
    assert int(done.sum()) == 6
    np.testing.assert_allclose(patched.values[done], truth.values[done], atol=1e-4)
    strongest = np.argsort(-np.abs(result.data.attribution.values.ravel()))[:3]
    assert done.values.ravel()[strongest].all()
    assert result.data.attrs["verified"] == 6

    every = attribute(model, site="z", verify="all").data
    np.testing.assert_allclose(every.patched, truth, atol=1e-4)
    expected = np.corrcoef(every.attribution.values.ravel(), truth.values.ravel())[0, 1]
    assert every.attrs["pearson"] == pytest.approx(expected, abs=1e-4)


def test_recovered_has_the_sign_of_patching(model: LensModel) -> None:
    for direction in ("denoise", "noise"):
        data = attribute(model, direction=direction, verify=0, site="resid_post").data
        attrs = data.attrs
        difference = attrs["clean_metric"] - attrs["corrupt_metric"]
        sign = 1 if direction == "denoise" else -1
        np.testing.assert_allclose(
            data.recovered, sign * data.attribution / difference, rtol=1e-4, atol=1e-5
        )
        assert attrs["complete"] == 1


def test_pairs_and_alignments(gpt2: LensModel) -> None:
    data = ll.attribution_patch(gpt2, [CLEAN, [5, 6]], [CORRUPT, [5, 8]], **OPTIONS).data
    alone = ll.attribution_patch(gpt2, [5, 6], [5, 8], **OPTIONS).data
    np.testing.assert_allclose(data.attribution[1, :, :2], alone.attribution, atol=1e-5)
    assert data.attribution[1, :, 2:].isnull().all()

    aligned = ll.attribution_patch(gpt2, [5, 6], [5, 7, 8], align=[(0, 0), (1, 2)], **OPTIONS).data
    assert aligned.attribution[:, 1].isnull().all()
    assert aligned.attribution[:, [0, 2]].notnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "rank", "wrong": None}, "no gradient"),
        ({"metric": "kl", "wrong": None, "direction": "noise"}, "steps=5"),
        ({"metric": lambda z: z.argmax(-1).float(), "wrong": None}, "no derivative"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 2, "grad_drop": True}, "0 with grad_drop"),
        ({"verify": "some"}, "'all'"),
        ({"site": "result"}, "cannot be patched"),
    ],
)
def test_bad_input_is_refused(gpt2: LensModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attribute(gpt2, **options)


def test_kl_from_the_other_run_has_a_gradient(gpt2: LensModel) -> None:
    assert float(np.abs(attribute(gpt2, metric="kl", wrong=None).data.attribution).max()) > 0
    noise = attribute(gpt2, metric="kl", wrong=None, direction="noise", steps=3)
    assert float(np.abs(noise.data.attribution).max()) > 0


def test_the_model_is_left_as_it_was(gpt2: LensModel) -> None:
    attribute(gpt2)
    assert all(parameter.grad is None for parameter in gpt2.hf.parameters())
    assert all(not module._forward_hooks for module in gpt2.hf.modules())


@pytest.mark.filterwarnings("error")
def test_of_the_ends_no_gradient_is_kept(gpt2: LensModel) -> None:
    seen: list[bool] = []

    def metric(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.requires_grad)
        return logits[..., 3] - logits[..., 4]

    found = ll.attribution_patch(gpt2, [5, 9, 5, 3], [5, 8, 5, 3], metric=metric)
    assert found.data.attrs["complete"] == 1
    assert not any(seen[:2])
