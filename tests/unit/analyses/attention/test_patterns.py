"""Attention of every head against transformers' own, by direct sums, and on planted heads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError, MemoryLimitError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from ..conftest import build

IDS = [5, 9, 5, 7, 9, 5, 3, 11]
ALL = ("value", "norm", "scores")


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return build(request.param)


@pytest.fixture(scope="module")
def found(model: LensModel) -> ll.Result:
    return ll.attention(model, IDS, weighting=ALL)


@pytest.fixture(scope="module")
def toy() -> LensModel:
    return ll.load("toy:induction")


def by_hand(model: LensModel) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of values, and of what they become in the stream, ``[layer, head, key]``."""
    trace = ll.record(model, IDS, ["v"])
    values, writes = [], []
    for layer, block in enumerate(model.anatomy.blocks):
        v = trace["v", layer][0].repeat_interleave(block.n_heads // block.n_kv_heads, dim=1)
        weight = model.hf.get_submodule(block.out_proj).weight.detach()
        if isinstance(model.hf.get_submodule(block.out_proj), torch.nn.Linear):
            weight = weight.T
        per_head = weight.unflatten(0, (block.n_heads, -1))
        values.append(v.norm(dim=-1).T)
        writes.append(torch.einsum("khw,hwd->khd", v, per_head).norm(dim=-1).T)
    return torch.stack(values).numpy(), torch.stack(writes).numpy()


def test_patterns_are_those_of_transformers(model: LensModel, found: ll.Result) -> None:
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model.hf(torch.tensor([IDS]), output_attentions=True).attentions
    model.hf.set_attn_implementation(before)
    ours = found.data["pattern"].values
    assert np.allclose(ours, torch.cat(theirs).numpy(), atol=1e-5)
    assert ours[:, :, 0, 0] == pytest.approx(1)
    assert not np.triu(ours, 1).any()


def test_weightings_are_lengths_times_weights(model: LensModel, found: ll.Result) -> None:
    data = found.data
    values, writes = by_hand(model)
    pattern = data["pattern"].values
    assert np.allclose(data["value_weighted"].values, pattern * values[:, :, None], rtol=1e-4)
    assert np.allclose(data["norm_weighted"].values, pattern * writes[:, :, None], rtol=1e-4)


def test_scores_are_those_of_the_pattern(found: ll.Result) -> None:
    scores = torch.from_numpy(found.data["scores"].values)
    assert torch.isneginf(scores[..., 0, 1:]).all()
    assert torch.allclose(scores.softmax(-1), torch.from_numpy(found.data["pattern"].values))


def test_everything_was_checked(found: ll.Result) -> None:
    assert {check.name for check in found.checks} == {"rows", "scores", "values", "writes"}
    assert all(check.ok for check in found.checks), str(found.checks)


def test_a_check_fails_where_the_sum_does_not_hold() -> None:
    model = build("gpt2")
    moved = model.hf.get_submodule("transformer.h.1.attn.c_proj")
    # Not affine any more: the parts no longer add up to what the sublayer gives.
    moved.register_forward_hook(lambda module, args, out: out + 0.1 * out.square())
    checks = {c.name: c for c in ll.attention(model, IDS, weighting="norm").checks}
    assert not checks["writes"].ok
    assert checks["values"].ok


def test_grouped_heads_and_layers(model: LensModel, found: ll.Result) -> None:
    groups = {"gpt2": [0, 1]}.get(model.anatomy.family, [0, 0, 1, 1])
    assert found.data["kv_group"].values.tolist() == groups
    some = ll.attention(model, IDS, layers=[2, 0])
    assert some.data["layer"].values.tolist() == [0, 2]
    assert np.array_equal(some.data["pattern"].values, found.data["pattern"].values[[0, 2]])
    assert "norm_weighted" not in some.data


def test_each_text_of_several_is_as_alone(toy: LensModel) -> None:
    texts = ["cat dog owl cat dog", "owl owl"]
    several = ll.attention(toy, texts)
    for row, text in enumerate(texts):
        alone = ll.attention(toy, text).data
        size = alone.sizes["key"]
        mine = several.data.isel(batch=row, query=slice(size), key=slice(size))
        assert np.allclose(mine["pattern"], alone["pattern"], atol=1e-6)
        assert np.allclose(mine["sink_mass"], alone["sink_mass"])
    assert several.data["pattern"].isel(batch=1, query=slice(3, None)).isnull().all()
    assert several.data["special"].values[1].tolist() == [True] + [False] * 5


def test_the_induction_head_of_the_toy_is_found(toy: LensModel) -> None:
    data = ll.attention(toy, "cat dog owl fox cat dog owl fox cat").data
    assert data["previous_token"].isel(layer=0).max() > 0.8
    assert data["induction"].isel(layer=1).max() > 0.9
    assert data["induction"].isel(layer=0).max() < 0.5
    head = int(data["induction"].values[1].argmax())
    # <bos> cat dog owl fox cat dog owl fox cat: the second owl looks at what followed the first.
    row = data["pattern"].values[1, head, 7]
    assert data["token"].values[7] == "owl"
    assert data["key_token"].values[row.argmax()] == "fox"


def planted(back: int) -> LensModel:
    """One block whose head looks ``back`` tokens back, by its positions alone."""
    width = 16
    config = GPT2Config(
        n_layer=1, n_head=1, n_embd=width, n_positions=width, vocab_size=20,
        bos_token_id=None, eos_token_id=None, scale_attn_weights=False,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        block = hf.transformer.h[0]
        for norm in (block.ln_1, block.ln_2, hf.transformer.ln_f):
            norm.weight.fill_(1.0)
        hf.transformer.wpe.weight.copy_(torch.eye(width))
        query, key, value = block.attn.c_attn.weight.split(width, dim=1)
        # The query of a position is that of the position it looks at.
        query.copy_(10 * torch.eye(width).roll(-back, 1))
        key.copy_(torch.eye(width))
        value.copy_(torch.eye(width))
        block.attn.c_proj.weight.copy_(torch.eye(width))
    return LensModel.wrap(hf, None, name="planted", prove=False)


def test_a_planted_head_that_looks_at_the_token_before() -> None:
    found = ll.attention(planted(1), [3, 4, 5, 6, 7, 8], weighting=("value", "norm"))
    data = found.data.isel(layer=0, head=0)
    assert data["previous_token"] == pytest.approx(1, abs=1e-3)
    assert data["pattern"].values[1:] == pytest.approx(np.eye(6)[:-1], abs=1e-3)
    # Values and projection are identities: both lengths are that of the normed state.
    assert np.allclose(data["value_weighted"], data["norm_weighted"], rtol=1e-5)
    length = np.sqrt(16)
    assert np.allclose(data["value_weighted"], data["pattern"] * length, rtol=1e-3)


def test_local_and_delimiter_by_hand(toy: LensModel) -> None:
    data = ll.attention(toy, "cat dog owl fox cat dog owl fox").data
    pattern = data["pattern"].values.astype(float)
    queries = range(4, pattern.shape[2])
    near = np.mean([pattern[:, :, t, t - 3 : t + 1].sum(-1) for t in queries], axis=0)
    assert np.allclose(data["local"], near)
    assert not data["delimiter"].any()
    assert ll.attention(toy, "cat dog owl").data["local"].isnull().all()


def test_rows_of_a_model_with_a_learnt_sink_sum_to_less() -> None:
    hf = tiny_model("gpt_oss", 0)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith("sinks"):
                parameter.fill_(1.0)
    model = LensModel.wrap(hf, None, name="sinks", prove=False)
    found = ll.attention(model, IDS, weighting=ALL)
    assert all(check.ok for check in found.checks), str(found.checks)
    assert found.data["pattern"].sum("key").mean() < 0.95


def test_a_second_text_and_a_second_model_lie_beside(toy: LensModel) -> None:
    pair = ll.attention(toy, "cat dog owl cat", other="owl fox")
    alone = ll.attention(toy, "owl fox")
    assert np.allclose(pair.data["other_pattern"], alone.data["pattern"])
    assert pair.data["other_token"].values.tolist() == alone.data["token"].values.tolist()
    assert pair.data.attrs["passes"] == 2
    small = build("gpt2")
    models = ll.attention(toy, [5, 9, 5], other=small)
    assert models.data.sizes["other_head"] == 2
    assert np.allclose(
        models.data["other_pattern"], ll.attention(small, [5, 9, 5]).data["pattern"], atol=1e-6
    )
    assert models.data.attrs["other_label"] == "tiny gpt2"
    assert {check.name for check in models.checks} == {"rows", "other_rows"}


def test_waiting_for_a_second_model_that_is_busy_can_be_stopped(toy: LensModel) -> None:
    class Impatient(Silent):
        looks = 0

        def cancelled(self) -> bool:
            self.looks += 1
            return self.looks == 2

    busy = build("gpt2")
    holder = ThreadPoolExecutor(1)  # another thread, as that of a view of the second model
    holder.submit(busy.lock.acquire).result()
    with pytest.raises(Cancelled):
        ll.attention.run(toy, [5, 9, 5], {"other": busy}, Impatient())
    assert holder.submit(toy.lock.acquire, timeout=5).result()  # nothing is held any more
    holder.submit(toy.lock.release).result()
    holder.submit(busy.lock.release).result()


def test_saved_and_opened(toy: LensModel, tmp_path: Path) -> None:
    result = ll.attention(toy, "cat dog owl cat", weighting="scores", other="owl")
    assert ll.open(result.save(tmp_path / "a.nc")).identical(result)


def test_what_does_not_fit_is_said_in_a_sentence(toy: LensModel) -> None:
    with pytest.raises(InputError, match=r"Weighting 'norms' .* 'norm'"):
        ll.attention(toy, "cat", weighting="norms")
    with pytest.raises(InputError, match="weighting is 5; it is one of"):
        ll.attention(toy, "cat", weighting=5)
    with pytest.raises(MemoryLimitError, match="at most 1 layer with layers="):
        ll.attention(toy, "cat dog owl cat", memory_limit=700)
    with pytest.raises(MemoryLimitError, match="a shorter text"):
        ll.attention(toy, "cat dog owl cat", memory_limit=100)
    with pytest.raises(InputError, match="beside one text, and 2 were given"):
        ll.attention(toy, ["cat", "dog"], other="owl")
    mamba = LensModel.wrap(tiny_model("mamba", 0), None, name="mamba", prove=False)
    with pytest.raises(ModelError, match="other= is mamba, which has no attention"):
        ll.attention(toy, "cat", other=mamba)
    with pytest.raises(InputError, match="one text beside the first, not 2"):
        ll.attention(toy, "cat", other=["owl", "dog"])


def test_the_estimate_counts_what_is_kept(toy: LensModel) -> None:
    work = ll.attention.work(toy, "cat dog owl cat", weighting="norm", other="owl fox cat dog")
    assert work.passes == 2
    assert work.bytes >= 2 * 2 * 2 * 4 * 25 * 5


def test_a_model_whose_heads_are_gated_has_no_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    monkeypatch.setattr("layerlens.analyses.attention.weightings.GATED_Z", frozenset({"llama"}))
    with pytest.raises(ModelError, match="gates or norms what its heads hand on"):
        ll.attention(model, IDS, weighting="norm")
    found = ll.attention(model, IDS, weighting="value")
    assert [check.name for check in found.checks] == ["rows"]
    assert found.data.attrs["weightings_possible"] == '["pattern", "value", "scores"]'
