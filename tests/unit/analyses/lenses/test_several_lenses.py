"""Lenses that were fitted, one or several over one pass, against plain hooks and the logit lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import layerlens as ll
from layerlens.analyses.lenses import memory
from layerlens.errors import InputError, MemoryLimitError, ResultError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts

from ..conftest import build

TEXT = "cat dog owl cat"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


def lens_of(
    model: LensModel, kind: str = "ridge_lens", *, scale: float = 1.0, scores: Any = None
) -> Fitted:
    """A lens with a random map for the embedding and the first block."""
    d, made = model.d_model, torch.Generator().manual_seed(3)
    arrays = {}
    for label in ("embed", "0_post"):
        arrays[f"{label}.weight"] = scale * torch.randn(d, d, generator=made)
        arrays[f"{label}.bias"] = scale * torch.randn(d, generator=made)
    found = scores or {f"{name}/0_post": value for name, value in (("kl", 0.5), ("kl_logit", 2.0))}
    return Fitted(kind, arrays, ModelFacts.of(model), data="texts", scores={"test": found})


@pytest.fixture(scope="module")
def ridge(model: LensModel) -> Fitted:
    return lens_of(model)


def plain(model: LensModel, lens: Fitted | None, label: str) -> torch.Tensor:
    """[position, V] log-probabilities, with nothing but the model's own modules."""
    layer = 0 if label == "embed" else int(label[0])
    state = ll.record(model, TEXT, [f"resid_{'pre' if label == 'embed' else 'post'}.{layer}"])
    h = next(iter(state.values()))[0]
    if lens is not None:
        h = h + torch.nn.functional.linear(h, lens[f"{label}.weight"], lens[f"{label}.bias"])
    with torch.no_grad():
        return model.unembed(h).log_softmax(-1)


def test_a_fitted_lens_is_the_head_after_its_map(model: LensModel, ridge: Fitted) -> None:
    result = ll.logit_lens(model, TEXT, lens=ridge, tracked=["dog"])
    data = result.data
    assert result.checks.ok
    last = f"{model.n_layers - 1}_post"
    assert data.point.values.tolist() == ["embed", "0_post", last, "final"]
    own = ll.logit_lens(model, TEXT, points="post", tracked=["dog"]).data
    for point in (last, "final"):
        for name in data.data_vars:
            if "point" in data[name].dims:
                np.testing.assert_array_equal(
                    data[name].sel(point=point), own[name].sel(point=point)
                )
    final = plain(model, None, last)
    ids = model.tokens(TEXT).ids[0]
    for label in ("embed", "0_post"):
        logp, here = plain(model, ridge, label), data.sel(point=label)
        np.testing.assert_allclose(here.probability[:, 0], logp.exp().amax(-1), rtol=1e-4)
        assert here.token_id[:, 0].values.tolist() == logp.argmax(-1).tolist()
        kl = (final.exp() * (final - logp)).sum(-1)
        np.testing.assert_allclose(here.kl_to_final, kl, rtol=1e-3, atol=1e-4)
        loss = -logp[:-1].gather(-1, ids[1:, None])[:, 0]
        np.testing.assert_allclose(here.cross_entropy[:-1], loss, rtol=1e-4)
        dog = logp[:, model.token_id("dog")].exp()
        np.testing.assert_allclose(here.tracked_probability[:, 0], dog, rtol=1e-3, atol=1e-7)


def test_a_map_of_zeros_is_the_logit_lens_bit_for_bit(model: LensModel) -> None:
    nothing = lens_of(model, "tuned_lens", scale=0.0)
    data = ll.logit_lens(model, TEXT, lens=["logit", nothing]).data
    alone = ll.logit_lens(model, TEXT, points=data.point.values[:-1].tolist()).data
    for name in alone.data_vars:
        for lens in ("logit", "tuned"):
            each = data[name].sel(lens=lens) if "lens" in data[name].dims else data[name]
            np.testing.assert_array_equal(each, alone[name])
    assert float(np.abs(data.change).max()) == float(data.kl_between.max()) == 0


def test_several_lenses_read_one_pass_and_are_compared(model: LensModel, ridge: Fitted) -> None:
    given = ["logit", ridge, lens_of(model, "bias_lens", scale=0.1), ridge]
    result = ll.logit_lens(model, TEXT, lens=given, tracked=["dog"])
    data = result.data
    assert result.checks.ok and data.attrs["passes"] == 1 and data.attrs["complete"]
    assert data.lens.values.tolist() == ["logit", "ridge", "bias", "ridge 2"]
    assert data.token_id.dims == ("lens", "point", "position", "k")
    points = data.point.values[:-1].tolist()
    for name, one in zip(data.lens.values, given, strict=True):
        alone = ll.logit_lens(model, TEXT, lens=one, points=points, tracked=["dog"]).data
        for variable in alone.data_vars:
            each = data[variable]
            each = each.sel(lens=name) if "lens" in each.dims else each
            np.testing.assert_allclose(each, alone[variable], rtol=1e-4, atol=1e-5)
    first, other = plain(model, None, "0_post"), plain(model, ridge, "0_post")
    apart = data.sel(lens="ridge", point="0_post")
    kl = (first.exp() * (first - other)).sum(-1)
    np.testing.assert_allclose(apart.kl_between, kl, rtol=1e-4, atol=1e-5)
    top = first.argmax(-1, keepdim=True)
    change = (other.exp() - first.exp()).gather(-1, top)[:, 0]
    np.testing.assert_allclose(apart.change, change, rtol=1e-4, atol=1e-6)
    assert float(data.kl_between.sel(lens="logit").max()) == 0
    moved = data.tracked_probability.sel(lens="ridge") - data.tracked_probability.sel(lens="logit")
    np.testing.assert_allclose(data.tracked_change.sel(lens="ridge"), moved, atol=1e-6)
    answer = ll.logit_lens(model, TEXT).data.sel(point="final")
    word = model.token_named(int(answer.token_id[-1, 0]))
    assert f"next: {word!r} {float(answer.probability[-1, 0]):.2f}" in repr(result)


def test_texts_of_other_lengths_and_edits(model: LensModel, ridge: Fitted) -> None:
    texts, given = ["cat dog owl cat", "owl cat", "dog dog cat owl fox"], ["logit", ridge]
    edit = ll.edit("attn_out", "zero", layer=0)
    for edits in ((), edit):
        both = ll.logit_lens(model, texts, lens=given, edits=edits)
        assert both.checks.ok and both.data.attrs["complete"]
        assert both.data.kl_to_final.dims == ("batch", "lens", "point", "position")
        for i, text in enumerate(texts):
            alone = ll.logit_lens(model, text, lens=given, edits=edits).data
            count = alone.sizes["position"]
            for name in ("kl_to_final", "rank", "token_id", "change", "kl_between", "first_layer"):
                each = both.data[name][i].isel(position=slice(count))
                np.testing.assert_allclose(each, alone[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_result_says_what_was_fitted_and_how_it_did(
    model: LensModel, ridge: Fitted, tmp_path: Path
) -> None:
    path = ridge.save(tmp_path / "ridge.safetensors")
    result = ll.logit_lens(model, TEXT, lens=["logit", ll.open(path)])
    told = json.loads(result.data.attrs["lenses"])
    assert [lens["name"] for lens in told] == ["logit", "ridge"]
    assert told[1]["data"] == "texts" and len(told[1]["fingerprint"]) == 32
    known = result.data.heldout_kl
    assert known.sel(point="0_post").values.tolist() == [2.0, 0.5]
    assert np.isnan(known.sel(point=["embed", "final"])).all()
    assert np.isnan(result.data.heldout_uniform).all()  # it has no score of a guess
    scores = {"kl/0_post": 0.5, "kl_logit/0_post": 2.0, "kl_uniform/0_post": 1.5}
    guessed = ll.logit_lens(model, TEXT, lens=["logit", lens_of(model, scores=scores)])
    assert guessed.data.heldout_uniform.values.tolist() == [1.5, 1.5]
    for lens in (str(path), path):
        again = eval(ll.logit_lens(model, TEXT, lens=lens).code, {"ll": ll, "model": model})
        assert again.data.heldout_kl.sel(point="0_post") == 0.5
    again = eval(result.code, {"ll": ll, "model": model})
    np.testing.assert_array_equal(again.data.kl_between, result.data.kl_between)
    opened = ll.open(result.save(tmp_path / "both.nc"))
    assert opened.data.lens.values.tolist() == ["logit", "ridge"]  # type: ignore[union-attr]
    table = result.to_pandas()
    assert set(table["lens"]) == {"logit", "ridge"}
    assert len(table) == result.data.kl_to_final.size


def test_a_second_pass_and_what_memory_and_work_it_takes(
    model: LensModel, ridge: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ll.logit_lens(model, TEXT, lens=ridge)
    work = ll.logit_lens.work(model, TEXT, lens=ridge)
    half = Fitted("ridge_lens", {n: a.half() for n, a in ridge.arrays.items()}, ridge.model, "")
    moved = sum(4 * array.numel() for array in ridge.arrays.values())
    assert ll.logit_lens.work(model, TEXT, lens=half).bytes == work.bytes + moved
    tokens = len(model.tokens(TEXT).ids[0])
    assert work.operations == 2 * tokens * sum(array.numel() for array in ridge.arrays.values())
    both = ll.logit_lens.work(model, TEXT, lens=["logit", ridge])
    assert (both.passes, work.passes) == (1, 1) and both.head_rows > work.head_rows
    monkeypatch.setattr(memory, "STORE_SHARE", 0)
    again = ll.logit_lens(model, TEXT, lens=ridge)
    assert (once.data.attrs["passes"], again.data.attrs["passes"]) == (1, 2)
    np.testing.assert_allclose(again.data.kl_to_final, once.data.kl_to_final, rtol=1e-3, atol=1e-5)
    with pytest.raises(MemoryLimitError, match="2 lenses do not fit"):
        ll.logit_lens(model, TEXT, lens=["logit", ridge])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lens": []}, "empty list"),
        ({"lens": 3}, "lens is a int"),
        ({"lens": True}, "lens is a bool"),
        ({"lens": None}, "lens is a NoneType"),
        ({"points": "mid"}, "fitted for embed, 0_post, not for 0_mid"),
        ({"points": "attn_out"}, "not for 0_attn_out"),
    ],
    ids=lambda value: str(value),
)
def test_what_does_not_fit_is_refused_in_words(
    model: LensModel, ridge: Fitted, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ll.logit_lens(model, TEXT, **{"lens": ["logit", ridge], **options})


def test_any_of_them_is_the_one_that_others_are_compared_with(
    model: LensModel, ridge: Fitted
) -> None:
    given = ["logit", ridge, lens_of(model, "bias_lens", scale=0.1)]
    result = ll.logit_lens(model, TEXT, lens=given, against="ridge", tracked=["dog"])
    turned = ll.logit_lens(model, TEXT, lens=[ridge, "logit", given[2]], tracked=["dog"])
    assert result.checks.ok and result.data.attrs["lens_against"] == "ridge"
    for name in ("change", "tracked_change", "kl_between"):
        for lens in ("logit", "ridge", "bias"):
            np.testing.assert_array_equal(
                result.data[name].sel(lens=lens), turned.data[name].sel(lens=lens)
            )
    assert float(result.data.kl_between.sel(lens="ridge").max()) == 0
    assert float(result.data.kl_between.sel(lens="logit").max()) > 0
    assert "against='ridge'" in result.code
    figure = result.figure(color="kl_between", lens="logit")
    assert figure.axes[0].get_title() or figure.texts
    with pytest.raises(ResultError, match="compared with ridge here"):
        result.figure(beside=True, lens="ridge")
    with pytest.raises(InputError, match="one of logit, ridge, bias"):
        ll.logit_lens(model, TEXT, lens=given, against="tuned")
    with pytest.raises(InputError, match="a list of lenses"):
        ll.logit_lens(model, TEXT, against="logit")


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_the_sublayer_lens_reads_what_sublayers_write_alone(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, ids = build(family), [3, 5, 8, 2]
    result = ll.logit_lens(small, ids, lens=["logit", "sublayer"])
    assert result.checks.ok
    alone = ll.logit_lens(small, ids, points=("attn_out", "mlp_out")).data
    found, logit = (result.data.sel(lens=lens) for lens in ("sublayer", "logit"))
    for label in result.data.point.values[:-1]:
        layer, _, kind = str(label).partition("_")
        wrote = {"mid": f"{layer}_attn_out", "post": f"{layer}_mlp_out"}
        expected = alone.sel(point=wrote[kind]) if kind else logit.sel(point="embed")
        for name in ("token_id", "probability", "entropy", "kl_to_final", "rank"):
            here = found[name].sel(point=label)
            np.testing.assert_allclose(here, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    monkeypatch.setattr(memory, "STORE_SHARE", 0)
    again = ll.logit_lens(small, ids, lens="sublayer").data
    assert again.attrs["passes"] == 2
    np.testing.assert_allclose(again.kl_to_final, found.kl_to_final, rtol=1e-3, atol=1e-5)


def test_where_two_sublayers_run_beside_each_other_both_are_read() -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=40,
    )  # fmt: skip
    small, ids = ll.load(GPTNeoXForCausalLM(config).eval(), name="tiny"), [3, 5, 8, 2]
    found = ll.logit_lens(small, ids, lens="sublayer").data
    with torch.no_grad():
        states = small.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
        logp = small.unembed(states[1][0] - states[0][0]).log_softmax(-1)
    here = found.sel(point="0_post")
    assert here.token_id[:, 0].values.tolist() == logp.argmax(-1).tolist()
    np.testing.assert_allclose(here.probability[:, 0], logp.exp().amax(-1), rtol=1e-3)


def test_where_states_are_read_the_sublayer_lens_is_refused(model: LensModel) -> None:
    with pytest.raises(InputError, match="reads what sublayers write"):
        ll.lens_quality(model, [TEXT], lens="sublayer")
