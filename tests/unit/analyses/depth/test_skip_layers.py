"""Leaving out layers, against plain hooks on the model, and on models whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.depth import skip_text
from layerlens.analyses.depth.skip_layers import skip_layers
from layerlens.analyses.depth.windows import windows
from layerlens.errors import Cancelled, InputError, MemoryLimitError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result import Result

IDS = [11, 42, 7, 63, 5, 80, 29]
FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "opt"]

#: Where the blocks are, and the modules whose outputs a sequential block adds.
BLOCKS: dict[str, Callable[[Any], nn.ModuleList]] = {
    "llama": lambda hf: hf.model.layers,
    "gemma2": lambda hf: hf.model.layers,
    "gpt2": lambda hf: hf.transformer.h,
    "gpt_neox": lambda hf: hf.gpt_neox.layers,
    "opt": lambda hf: hf.model.decoder.layers,
}
ADDED: dict[str, dict[str, Callable[[Any], nn.Module]]] = {
    "llama": {"attn": lambda b: b.self_attn, "mlp": lambda b: b.mlp},
    "gpt2": {"attn": lambda b: b.attn, "mlp": lambda b: b.mlp},
    "gemma2": {
        "attn": lambda b: b.post_attention_layernorm,
        "mlp": lambda b: b.post_feedforward_layernorm,
    },
}


@cache
def tiny(family: str) -> LensModel:
    return LensModel.wrap(tiny_model(family, seed=1), None, name=f"tiny {family}", prove=False)


def first(value: Any) -> Tensor:
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found


def instead(value: Any, new: Tensor) -> Any:
    return (new, *value[1:]) if isinstance(value, tuple) else new


def by_hand(
    family: str, ids: list[int], skipped: tuple[int, ...], changed: list[int], part: str
) -> tuple[Tensor, Tensor]:
    """Contributions [layer, position, width] and logits [position, V], with plain hooks."""
    hf = tiny(family).hf
    blocks = BLOCKS[family](hf)
    states: dict[int, tuple[Tensor, Tensor]] = {}

    def around(layer: int) -> tuple[Callable[..., None], Callable[..., Any]]:
        kept: list[Tensor] = []

        def enter(_: Any, args: Any, kwargs: Any) -> None:
            kept[:] = [(args[0] if args else kwargs["hidden_states"]).clone()]

        def leave(_: Any, args: Any, output: Any) -> Any:
            out = first(output).clone()
            if part == "block" and layer in skipped:
                out[:, changed] = kept[0][:, changed]
            states[layer] = (kept[0], out)
            return instead(output, out)

        return enter, leave

    def silence(_: Any, args: Any, output: Any) -> Any:
        out = first(output).clone()
        out[:, changed] = 0
        return instead(output, out)

    with ExitStack() as stack, torch.inference_mode():
        for layer, block in enumerate(blocks):
            enter, leave = around(layer)
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave).remove)
            if part != "block" and layer in skipped:
                module = ADDED[family][part](block)
                stack.callback(module.register_forward_hook(silence).remove)
        logits = hf(torch.tensor([ids]), use_cache=False).logits[0]
    adds = torch.stack([states[i][1] - states[i][0] for i in range(len(blocks))])
    return adds[:, 0].double(), logits.double()


def expected(
    family: str,
    skipped: tuple[int, ...],
    changed: list[int],
    measured: list[int],
    part: str = "block",
) -> tuple[Tensor, Tensor, float]:
    """Relative changes [layer, measured], distances [measured] and KL at the end."""
    clean, out = by_hand(family, IDS, (), [], "block")
    c, z = by_hand(family, IDS, skipped, changed, part)
    change = (c - clean).norm(dim=-1) / clean.norm(dim=-1).clamp(min=1e-6)
    p, q = out.log_softmax(-1), z.log_softmax(-1)
    kl = float((p[-1].exp() * (p[-1] - q[-1])).sum())
    return change[:, measured], (p.exp() - q.exp()).norm(dim=-1)[measured], kl


def row(result: Result, name: Any) -> dict[str, np.ndarray]:
    chosen = result.data.sel(skipped=name)
    return {key: chosen[key].values for key in ("effect", "output_effect", "kl")}


def agree(found: dict[str, np.ndarray], wanted: tuple[Tensor, Tensor, float]) -> None:
    change, distance, kl = wanted
    np.testing.assert_allclose(found["effect"], change.amax(-1), atol=2e-4, rtol=2e-4)
    np.testing.assert_allclose(found["output_effect"], distance.max(), atol=1e-5)
    np.testing.assert_allclose(found["kl"], kl, atol=1e-5, rtol=1e-3)


EVERY = list(range(1, len(IDS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_equals_plain_hooks(family: str) -> None:
    result = skip_layers(tiny(family), IDS)
    for layer in range(3):
        agree(row(result, layer), expected(family, (layer,), EVERY, EVERY))
    assert result.checks.ok and len(result.checks) == 4
    assert result.data.attrs["complete"] == 1
    assert result.data.effect.dims == ("skipped", "layer")


@pytest.mark.parametrize("family", list(ADDED))
@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_each_sublayer_equals_plain_hooks(family: str, part: str) -> None:
    result = skip_layers(tiny(family), IDS, part=part)
    for layer in range(3):
        agree(row(result, layer), expected(family, (layer,), EVERY, EVERY, part))
    assert result.checks.ok


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_and_ranges_equal_plain_hooks(family: str) -> None:
    pairs = skip_layers(tiny(family), IDS, mode="pairs", verify=6)
    assert pairs.data.skipped.values.tolist() == ["0", "0+1", "0+2", "1", "1+2", "2"]
    for name, skipped in (("0+1", (0, 1)), ("0+2", (0, 2)), ("1+2", (1, 2)), ("1", (1,))):
        agree(row(pairs, name), expected(family, skipped, EVERY, EVERY))
    ranges = skip_layers(tiny(family), IDS, mode="ranges", verify=6)
    assert ranges.data.skipped.values.tolist() == ["0", "0-1", "0-2", "1", "1-2", "2"]
    for name, skipped in (("0-1", (0, 1)), ("0-2", (0, 1, 2)), ("1-2", (1, 2)), ("2", (2,))):
        agree(row(ranges, name), expected(family, skipped, EVERY, EVERY))
    assert pairs.checks.ok and ranges.checks.ok
    assert pairs.data.attrs["complete"] == ranges.data.attrs["complete"] == 1


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_pairs_of_sublayers_equal_plain_hooks(part: str) -> None:
    result = skip_layers(tiny("gpt2"), IDS, mode="pairs", part=part, effect="future", cuts=[3])
    agree(row(result, "0+2"), expected("gpt2", (0, 2), [1, 2], [3, 4, 5, 6], part))


def test_joint_grids_hold_the_rows() -> None:
    pairs = skip_layers(tiny("gpt2"), IDS, mode="pairs").data
    assert next(iter(pairs.data_vars)) == "joint_kl"
    for name in ("kl", "output_effect", "answer_probability"):
        grid = pairs[f"joint_{name}"].values
        np.testing.assert_array_equal(grid, grid.T)
        assert grid[0, 2] == pairs[name].sel(skipped="0+2")
        assert grid[1, 1] == pairs[name].sel(skipped="1")
    ranges = skip_layers(tiny("gpt2"), IDS, mode="ranges").data
    assert np.isnan(ranges.joint_kl.values[np.tril_indices(3, -1)]).all()
    assert ranges.joint_kl.values[0, 2] == ranges.kl.sel(skipped="0-2")
    assert "joint_kl" not in skip_layers(tiny("gpt2"), IDS).data


@pytest.mark.parametrize("family", FAMILIES)
def test_the_future_variant_equals_plain_hooks(family: str) -> None:
    result = skip_layers(tiny(family), IDS, effect="future", cuts=[3, 5])
    for layer in range(3):
        one = expected(family, (layer,), [1, 2], [3, 4, 5, 6])
        two = expected(family, (layer,), [1, 2, 3, 4], [5, 6])
        found = row(result, layer)
        change = torch.maximum(one[0].amax(-1), two[0].amax(-1))
        np.testing.assert_allclose(found["effect"], change, atol=2e-4, rtol=2e-4)
        assert found["output_effect"] == pytest.approx(
            float(max(one[1].max(), two[1].max())), abs=1e-5
        )
        assert found["kl"] == pytest.approx((one[2] + two[2]) / 2, abs=1e-5)
    assert result.checks.ok


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reduce", ["max", "mean", "p95"])
def test_identities_hold_to_the_last_bit(family: str, reduce: str) -> None:
    whole = skip_layers(tiny(family), IDS, reduce=reduce).data.effect.values
    assert (whole[np.tril_indices(3, -1)] == 0).all(), "a layer before the skipped one changed"
    assert (np.diag(whole) == 1).all()
    future = skip_layers(tiny(family), IDS, reduce=reduce, effect="future", cuts=9).data.effect
    assert (future.values[np.tril_indices(3)] == 0).all()


def test_means_are_over_all_tokens() -> None:
    result = skip_layers(tiny("llama"), IDS, reduce="mean").data
    change, distance, _ = expected("llama", (0,), EVERY, EVERY)
    np.testing.assert_allclose(result.effect.sel(skipped=0), change.mean(-1), atol=1e-4)
    assert float(result.output_effect[0]) == pytest.approx(float(distance.mean()), abs=1e-6)
    result = skip_layers(tiny("llama"), IDS, reduce="p95").data
    np.testing.assert_allclose(
        result.effect.sel(skipped=0), change.quantile(0.95, dim=-1), atol=1e-4
    )


def test_several_texts_are_pooled() -> None:
    model, texts = tiny("gpt2"), [IDS, [9, 30, 71, 2], [4, 4, 8, 15, 16, 23, 42, 64]]
    pooled = skip_layers(model, texts).data
    single = [skip_layers(model, text).data for text in texts]
    assert pooled.effect.dims == ("skipped", "layer")
    for name in ("effect", "output_effect"):
        most = np.max([one[name].values for one in single], axis=0)
        np.testing.assert_allclose(pooled[name].values, most, atol=1e-6)
    for name in ("kl", "answer_probability", "answer_on_top"):
        mean = np.mean([one[name].values for one in single], axis=0)
        np.testing.assert_allclose(pooled[name].values, mean, atol=1e-6)
    mean = skip_layers(model, texts, reduce="mean").data.effect.values[0, 2]
    parts = [skip_layers(model, text, reduce="mean").data.effect.values[0, 2] for text in texts]
    assert mean == pytest.approx(np.average(parts, weights=[6, 3, 7]), rel=1e-5)


def test_the_answer_is_the_models_own_or_the_users() -> None:
    model = tiny("llama")
    _, out = by_hand("llama", IDS, (1,), EVERY, "block")
    own = int(by_hand("llama", IDS, (), [], "block")[1][-1].argmax())
    p = out[-1].softmax(-1)
    found = skip_layers(model, IDS).data.sel(skipped=1)
    assert float(found.answer_probability) == pytest.approx(float(p[own]), abs=1e-6)
    assert float(found.answer_on_top) == float(p.argmax() == own)
    found = skip_layers(model, IDS, answer=17).data.sel(skipped=1)
    assert float(found.answer_probability) == pytest.approx(float(p[17]), abs=1e-6)
    both = skip_layers(model, [IDS, IDS], answer=[17, own]).data.sel(skipped=1)
    assert float(both.answer_probability) == pytest.approx(float(p[17] + p[own]) / 2, abs=1e-6)


# ---- known answers -----------------------------------------------------------------------------


def silent(family: str, layers: list[int], *, mlp: bool = True) -> LensModel:
    """A tiny Llama whose layers write nothing by attention, nor by the MLP if ``mlp``."""
    model = LensModel.wrap(tiny_model(family, seed=1), None, prove=False)
    with torch.no_grad():
        for layer in layers:
            model.hf.model.layers[layer].self_attn.o_proj.weight.zero_()
            if mlp:
                model.hf.model.layers[layer].mlp.down_proj.weight.zero_()
    return model


def test_a_layer_that_writes_nothing_is_not_missed() -> None:
    data = skip_layers(silent("llama", [1]), IDS).data.sel(skipped=1)
    assert (data.effect.values == 0).all()
    # Other numbers of rows are rounded otherwise on some processors.
    assert float(data.output_effect) < 1e-6 and abs(float(data.kl)) < 1e-6
    assert float(data.answer_on_top) == 1


def test_without_attention_nothing_reaches_later_tokens() -> None:
    model = silent("llama", [0, 1, 2], mlp=False)
    data = skip_layers(model, IDS, effect="future", cuts=9).data
    assert float(data.effect.max()) < 1e-6 and float(data.output_effect.max()) < 1e-6
    everywhere = skip_layers(model, IDS).data.effect.values
    assert everywhere[0, 1] > 1e-2


# ---- windows, limits, errors -------------------------------------------------------------------


def test_cuts_are_those_published_and_any_in_short_texts() -> None:
    found = windows(40, "future", 9, True, 0)
    assert [window.measured[0] for window in found] == [8, 16, 24, 32]
    assert found[0].changed == tuple(range(1, 8)) and found[0].measured == tuple(range(8, 40))
    assert len(windows(200, "future", 4, True, 3)) == 4
    assert windows(200, "future", 4, True, 3) == windows(200, "future", 4, True, 3)
    short = windows(5, "future", 9, True, 0)
    assert [window.measured[0] for window in short] == [2, 3, 4]
    assert windows(3, "all", 4, False, 0)[0].changed == (0, 1, 2)


def test_rows_come_one_by_one_and_a_stop_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skip_text, "CHUNK_TOKENS", 1)  # a chunk for every layer

    class Stop(Silent):
        rows = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.rows += 1

        def cancelled(self) -> bool:
            return self.rows >= 2

    whole = skip_layers(tiny("llama"), IDS).data
    with pytest.raises(Cancelled) as caught:
        skip_layers.run(tiny("llama"), IDS, {}, Stop())
    data = caught.value.partial.data  # type: ignore[union-attr]
    np.testing.assert_allclose(data.effect.values[:2], whole.effect.values[:2], atol=1e-5)
    assert np.isnan(data.effect.values[2]).all() and data.attrs["complete"] == 0


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.analyses.answers import output_distance
    from layerlens.run import block_rows as rows

    options: dict[str, Any] = {"mode": "ranges", "effect": "future", "cuts": [2, 5]}
    whole = skip_layers(tiny("gpt2"), [IDS, IDS[:5]], **{**options, "cuts": 2})
    monkeypatch.setattr(skip_text, "CHUNK_TOKENS", 1)
    monkeypatch.setattr(rows, "TOKENS_AT_ONCE", 8)
    monkeypatch.setattr(output_distance, "BUFFER_BYTES", 1)
    small = skip_layers(tiny("gpt2"), [IDS, IDS[:5]], **{**options, "cuts": 2})
    for name in ("effect", "output_effect", "kl", "joint_kl"):
        np.testing.assert_allclose(small.data[name], whole.data[name], atol=2e-4, rtol=1e-3)


def test_a_family_whose_rows_cannot_go_together_runs_them_one_by_one() -> None:
    model = LensModel.wrap(tiny_model("gemma4_text"), None, prove=False)
    result = skip_layers(model, IDS, verify=3)
    assert (np.diag(result.data.effect.values) == 1).all()
    assert result.checks.ok


def test_work_counts_the_passes() -> None:
    for options in ({}, {"mode": "pairs"}, {"mode": "ranges"}, {"part": "attn"}):
        model = tiny("llama")
        work = skip_layers.work(model, IDS, **options)
        passes = skip_layers(model, IDS, **options).data.attrs["passes"]
        assert work.passes == pytest.approx(passes, rel=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "mpl"}, "part is 'mpl'; expected one of block, attn, mlp"),
        ({"mode": "all"}, "mode is 'all'; expected one of each, pairs, ranges"),
        ({"effect": "past"}, "expected one of all, future"),
        ({"reduce": "sum"}, "expected one of max, mean, p95"),
        ({"cuts": 0, "effect": "future"}, "cuts is 0; expected at least 1"),
        ({"cuts": [1], "effect": "future"}, "positions from 2 to 6"),
        ({"answer": [1, 2]}, "answer has 2 entries for 1 text:"),
        ({"answer": 99}, "Token id 99 does not exist"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        skip_layers(tiny("llama"), IDS, **options)


def test_texts_that_are_too_short_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 1 tokens; .* needs at least 2"):
        skip_layers(tiny("llama"), [5])
    with pytest.raises(InputError, match=r"needs at least 3"):
        skip_layers(tiny("llama"), [5, 6], effect="future")
    assert skip_layers(tiny("llama"), [5], keep_first=False).data.attrs["complete"] == 1


def test_a_part_that_a_layer_lacks_and_a_limit_that_is_too_small_are_said() -> None:
    with pytest.raises(SiteError):
        skip_layers(LensModel.wrap(tiny_model("mamba"), None, prove=False), IDS, part="mlp")
    with pytest.raises(MemoryLimitError, match=r"a text of 7 tokens needs"):
        skip_layers(tiny("llama"), IDS, memory_limit=1000)


def directly(family: str, source: int | None, target: int) -> tuple[Tensor, Tensor]:
    """What a layer (or the last block's output) gets, and gives, without what another has added.

    Returns what the target adds, ``[position, width]``, and the logits; for the target after the
    last layer, the logits are those of the state less what the source has added.
    """
    hf = tiny(family).hf
    blocks = list(BLOCKS[family](hf))
    states: list[Tensor] = []
    given: list[Tensor] = []
    with ExitStack() as stack, torch.inference_mode():

        def enter(layer: int) -> Callable[..., Any]:
            def hook(_: Any, args: Any, kwargs: Any) -> Any:
                state = (args[0] if args else kwargs["hidden_states"]).clone()
                states.append(state[0])
                if layer == target and source is not None:
                    state[0, 1:] -= (states[source + 1] - states[source])[1:]
                given[:] = [state[0]]
                if args:
                    return (state, *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": state}

            return hook

        added: list[Tensor] = []

        def leave(layer: int) -> Callable[..., Any]:
            def hook(_: Any, args: Any, output: Any) -> Any:
                out = first(output).clone()
                if layer == target:
                    added.append(out[0] - given[0])
                if layer == len(blocks) - 1 and target == len(blocks):
                    states.append(out[0].clone())
                    if source is not None:
                        out[0, 1:] -= (states[source + 1] - states[source])[1:]
                return instead(output, out)

            return hook

        for layer, block in enumerate(blocks):
            stack.callback(block.register_forward_pre_hook(enter(layer), with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave(layer)).remove)
        logits = hf(torch.tensor([IDS]), use_cache=False).logits[0]
    return (added[0] if added else logits), logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_a_direct_effect_goes_through_no_layer_between(family: str) -> None:
    result = skip_layers(tiny(family), IDS, effect="direct")
    assert all(check.ok for check in result.checks)
    effect = result.data.effect.values
    layers = len(effect)
    whole = skip_layers(tiny(family), IDS).data.effect.values
    for source in range(layers):
        assert (effect[source, : source + 1] == 0).all()
        for target in range(source + 1, layers):
            clean, _ = directly(family, None, target)
            found, _ = directly(family, source, target)
            off = ((found - clean).norm(dim=-1) / clean.norm(dim=-1))[1:].max()
            assert effect[source, target] == pytest.approx(float(off), abs=1e-4)
        if source + 1 < layers:
            assert effect[source, source + 1] == pytest.approx(whole[source, source + 1], abs=1e-5)
        _, clean = directly(family, None, layers)
        _, other = directly(family, source, layers)
        p, q = (z[-1].double().log_softmax(-1) for z in (clean, other))
        kl = float((p.exp() * (p - q)).sum())
        assert float(result.data.kl[source]) == pytest.approx(kl, abs=1e-4)
    assert np.abs(effect - whole)[np.triu_indices(layers, 2)].max() > 1e-3


@pytest.mark.parametrize("options", [{"part": "mlp"}, {"mode": "pairs"}])
def test_a_direct_effect_is_that_of_one_block(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="effect='direct' is for part='block' and mode='each'"):
        skip_layers(tiny("llama"), IDS, effect="direct", **options)
