"""Direct logit attribution against weights and hooks of transformers alone, and identities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.contributions import split_text
from layerlens.analyses.contributions.direct_logit_attribution import (
    direct_logit_attribution as split,
)
from layerlens.errors import Cancelled, InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from tests.unit.analyses.copies import copy_of

IDS = [5, 17, 60, 3, 90, 41]
ANSWER, WRONG = 7, 55


@dataclass
class Plain:
    """Where a family of transformers keeps what a logit is made of."""

    blocks: str
    attention: str
    projection: str
    mlp: str
    down: str
    norm: str
    head: str = "lm_head"
    attn_added: str = ""
    mlp_added: str = ""
    scale: str = ""
    gain: Callable[[nn.Module], Tensor] = lambda norm: norm.weight
    centred: bool = False
    logits: Callable[[Any], float] = lambda config: 1.0


LLAMA = {"blocks": "model.layers", "attention": "self_attn", "projection": "self_attn.o_proj"}
LLAMA |= {"mlp": "mlp", "down": "mlp.down_proj", "norm": "model.norm"}
FAMILIES = {
    "gpt2": Plain(
        *("transformer.h", "attn", "attn.c_proj", "mlp", "mlp.c_proj", "transformer.ln_f"),
        centred=True,
    ),
    "llama": Plain(**LLAMA),
    "gemma2": Plain(
        **LLAMA,
        attn_added="post_attention_layernorm",
        mlp_added="post_feedforward_layernorm",
        gain=lambda norm: 1 + norm.weight,
    ),
    "gpt_neox": Plain(
        *("gpt_neox.layers", "attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"),
        norm="gpt_neox.final_layer_norm",
        centred=True,
    ),
    "granite": Plain(
        **LLAMA, scale="residual_multiplier", logits=lambda config: 1 / config.logits_scaling
    ),
    "cohere": Plain(**LLAMA, centred=True, logits=lambda config: config.logit_scale),
}


@cache
def built(family: str) -> LensModel:
    return LensModel.wrap(tiny_model(family), None, name=family, prove=False)


def wrapped(family: str) -> LensModel:
    return copy_of(built(family))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[LensModel, Plain]:
    return wrapped(request.param), FAMILIES[request.param]


class ByHand:
    """The parts of a logit difference, from hooks, weights and formulas alone."""

    def __init__(self, model: LensModel, plain: Plain, ids: list[int]) -> None:
        self.hf, self.plain = model.hf, plain
        self.blocks = self.hf.get_submodule(plain.blocks)
        seen = self._run(ids)
        self.logits = seen.pop("logits")
        self.scale = getattr(self.hf.config, plain.scale) if plain.scale else 1.0
        self.embed = seen["embed"]
        self.attn = [seen[f"attn{i}"] * self.scale for i in range(len(self.blocks))]
        self.mlp = [seen[f"mlp{i}"] * self.scale for i in range(len(self.blocks))]
        self.z = [seen[f"z{i}"] for i in range(len(self.blocks))]
        self.neurons = [seen[f"neurons{i}"] for i in range(len(self.blocks))]
        self.final = self.embed + sum(self.attn) + sum(self.mlp)
        norm = self.hf.get_submodule(plain.norm)
        self.gain = plain.gain(norm).double()
        self.bias = getattr(norm, "bias", None)
        eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", 1e-5)
        x = self.final - self.final.mean() if plain.centred else self.final
        self.s = (x.square().mean() + eps).sqrt()
        head = self.hf.get_submodule(plain.head)
        self.u = (head.weight[ANSWER] - head.weight[WRONG]).double() * plain.logits(self.hf.config)

    def _run(self, ids: list[int]) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        handles = []

        def out(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                value = output[0] if isinstance(output, tuple) else output
                seen[name] = value[0, -1].double()

            return hook

        def into(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                value = args[0] if args else kwargs["hidden_states"]
                seen[name] = value[0, -1].double()

            return hook

        p = self.plain
        for i, block in enumerate(self.blocks):
            for name, module in (
                (f"attn{i}", p.attn_added or p.attention),
                (f"mlp{i}", p.mlp_added or p.mlp),
            ):
                handles.append(block.get_submodule(module).register_forward_hook(out(name)))
            for name, module in ((f"z{i}", p.projection), (f"neurons{i}", p.down)):
                handle = block.get_submodule(module)
                handles.append(handle.register_forward_pre_hook(into(name), with_kwargs=True))
        handles.append(self.blocks[0].register_forward_pre_hook(into("embed"), with_kwargs=True))
        with torch.no_grad():
            seen["logits"] = self.hf(torch.tensor([ids])).logits[0, -1].double()
        for handle in handles:
            handle.remove()
        return seen

    def part(self, write: Tensor) -> float:
        """What a write adds to the logit difference, the final norm's statistics held."""
        x = write - write.mean() if self.plain.centred else write
        return float(((self.gain * x / self.s) @ self.u).detach())

    def constant(self) -> float:
        head = self.hf.get_submodule(self.plain.head)
        found = 0.0 if self.bias is None else float((self.bias.double() @ self.u).detach())
        bias = getattr(head, "bias", None)
        return found if bias is None else found + float(bias[ANSWER] - bias[WRONG])

    def units(self, layer: int, path: str, added: str, values: Tensor) -> list[float]:
        """Parts of single inputs of a projection, one by one through its weights."""
        block = self.blocks[layer]
        projection = block.get_submodule(path)
        conv = type(projection).__name__ == "Conv1D"
        weight = (projection.weight if conv else projection.weight.T).double()
        writes = values.unsqueeze(-1) * weight
        if added:  # a norm behind the projection, its statistics held
            norm = block.get_submodule(added)
            whole = writes.sum(0)
            rms = (whole.square().mean() + norm.eps).sqrt()
            writes = writes * (1 + norm.weight.double()) / rms
        return [self.part(write * self.scale) for write in writes]


def by_hand(family: tuple[LensModel, Plain]) -> ByHand:
    return ByHand(*family, IDS)


def test_components_equal_the_writes_through_the_held_norm(
    family: tuple[LensModel, Plain],
) -> None:
    hand = by_hand(family)
    data = split(family[0], IDS, answer=ANSWER, wrong=WRONG).data
    found = data.set_index(component="component").contribution
    assert float(found.sel(component="embed")) == pytest.approx(hand.part(hand.embed), abs=1e-4)
    for i, (attn, mlp) in enumerate(zip(hand.attn, hand.mlp, strict=True)):
        for kind, write in (("attn_out", attn), ("mlp_out", mlp)):
            expected = pytest.approx(hand.part(write), abs=1e-4)
            assert float(found.sel(component=f"{i}_{kind}")) == expected
            assert float(data.sublayer_contribution.sel(layer=i, sublayer=kind)) == expected
    assert float(found.sel(component="constant")) == pytest.approx(hand.constant(), abs=1e-4)


def test_the_parts_sum_to_the_logit_difference(family: tuple[LensModel, Plain]) -> None:
    hand = by_hand(family)
    result = split(family[0], IDS, answer=ANSWER, wrong=WRONG)
    z = hand.logits[[ANSWER, WRONG]]
    cap = getattr(family[0].hf.config, "final_logit_softcapping", None)
    if cap:
        z = cap * torch.atanh(z / cap)
    assert float(result.data.contribution.sum()) == pytest.approx(float(z[0] - z[1]), abs=1e-4)
    assert float(result.data.accumulated[-1]) == pytest.approx(float(z[0] - z[1]), abs=1e-4)
    np.testing.assert_allclose(result.data.logit, hand.logits[[ANSWER, WRONG]], atol=1e-4)
    np.testing.assert_allclose(result.data.logit_before_cap, z, atol=1e-4)
    assert result.checks.ok
    assert result.checks[0].error < 1e-5


def test_heads_equal_their_slices_of_the_projection(family: tuple[LensModel, Plain]) -> None:
    model, plain = family
    hand = by_hand(family)
    data = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="head").data
    for layer, z in enumerate(hand.z):
        parts = hand.units(layer, plain.projection, plain.attn_added, z)
        by_head = np.array(parts).reshape(model.n_heads, -1).sum(1)
        np.testing.assert_allclose(data.head_contribution[layer], by_head, atol=1e-4)
        whole = float(data.sublayer_contribution.sel(layer=layer, sublayer="attn_out"))
        total = float(data.head_contribution[layer].sum() + data.bias_contribution[layer])
        assert total == pytest.approx(whole, abs=1e-4)


def test_neurons_and_bias_sum_to_the_mlp(family: tuple[LensModel, Plain]) -> None:
    model, plain = family
    hand = by_hand(family)
    data = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="neuron").data
    for layer, values in enumerate(hand.neurons):
        parts = hand.units(layer, plain.down, plain.mlp_added, values)
        np.testing.assert_allclose(data.neuron_contribution[layer], parts, atol=1e-4)
        whole = float(data.sublayer_contribution.sel(layer=layer, sublayer="mlp_out"))
        total = float(data.neuron_contribution[layer].sum() + data.bias_contribution[layer])
        assert total == pytest.approx(whole, abs=1e-4)


def test_sources_sum_to_their_head(family: tuple[LensModel, Plain]) -> None:
    result = split(family[0], IDS, answer=ANSWER, wrong=WRONG, unit="source")
    data = result.data
    assert data.source_contribution.dims == ("layer", "head", "source")
    np.testing.assert_allclose(
        data.source_contribution.sum("source"), data.head_contribution, atol=1e-5
    )
    assert result.checks.ok


def test_a_source_is_its_pattern_times_its_value(
    family: tuple[LensModel, Plain],
) -> None:
    """Only one source has a value: the head's whole part comes from there."""
    model, _ = family
    data = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="source", position=0).data
    np.testing.assert_allclose(data.source_contribution[..., 0], data.head_contribution, atol=1e-5)
    assert float(abs(data.source_contribution[..., 1:]).max()) == 0


def test_uniform_attention_gives_each_source_its_value_over_their_number() -> None:
    model = wrapped("gpt2")
    attn = model.hf.transformer.h[0].attn
    d = model.d_model
    with torch.no_grad():
        attn.c_attn.weight[:, : 2 * d] = 0
        attn.c_attn.bias[: 2 * d] = 0
    values: list[Tensor] = []
    handle = attn.c_attn.register_forward_hook(lambda *a: values.append(a[2][0, :, 2 * d :]))
    hand = ByHand(model, FAMILIES["gpt2"], IDS)
    handle.remove()
    data = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="source").data
    width = d // model.n_heads
    for head in range(model.n_heads):
        here = slice(head * width, (head + 1) * width)
        for source in range(len(IDS)):
            value = values[0][source, here].double() / len(IDS)
            write = value @ attn.c_proj.weight[here].double()
            found = float(data.source_contribution[0, head, source])
            assert found == pytest.approx(hand.part(write), abs=1e-5)


@contextmanager
def held(hf: Any, **layers: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change outputs of a GPT-2's modules; its final norm keeps the statistics that it had."""
    norm = hf.transformer.ln_f
    kept: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    with torch.no_grad():
        hf(torch.tensor([IDS]))
    handle.remove()
    s = (kept[0].var(-1, correction=0, keepdim=True) + norm.eps).sqrt()

    def frozen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        return norm.weight * (x - x.mean(-1, keepdim=True)) / s + norm.bias

    handles = [norm.register_forward_hook(frozen)]
    for path, change in layers.items():
        module = hf.get_submodule(f"transformer.h.{path.replace('__', '.')}")

        def swap(
            module: nn.Module, args: Any, output: Any, change: Callable[[Tensor], Tensor] = change
        ) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handles.append(module.register_forward_hook(swap))
    yield
    for handle in handles:
        handle.remove()


def difference(hf: Any) -> float:
    with torch.no_grad():
        z = hf(torch.tensor([IDS])).logits[0, -1]
    return float(z[ANSWER] - z[WRONG])


def test_zeroing_the_last_mlp_takes_away_exactly_its_part() -> None:
    model = wrapped("gpt2")
    data = split(model, IDS, answer=ANSWER, wrong=WRONG).data
    last = model.n_layers - 1
    with held(model.hf):
        whole = difference(model.hf)
    with held(model.hf, **{f"{last}__mlp": torch.zeros_like}):
        without = difference(model.hf)
    part = float(data.sublayer_contribution.sel(layer=last, sublayer="mlp_out"))
    assert without - whole == pytest.approx(-part, abs=1e-4)


def test_a_last_head_counts_once_when_zeroed_and_twice_when_doubled() -> None:
    model = wrapped("gpt2")
    last = model.n_layers - 1
    data = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="head").data
    mlp: list[Tensor] = []
    module = model.hf.transformer.h[last].mlp
    handle = module.register_forward_hook(lambda *a: mlp.append(a[2].clone()))
    whole = difference(model.hf)
    handle.remove()
    width = model.d_model // model.n_heads
    weight = model.hf.transformer.h[last].attn.c_proj.weight
    for head in range(model.n_heads):
        part = float(data.head_contribution[last, head])
        for factor in (0.0, 2.0):
            with held(model.hf, **{f"{last}__mlp": lambda _: mlp[0]}):
                before = weight.data.clone()
                weight.data[head * width : (head + 1) * width] *= factor
                changed = difference(model.hf)
                weight.data.copy_(before)
            assert changed - whole == pytest.approx((factor - 1) * part, abs=1e-4)


def test_a_constant_vector_adds_nothing_under_a_centring_norm() -> None:
    plain, shifted = wrapped("gpt2"), wrapped("gpt2")
    with torch.no_grad():
        shifted.hf.transformer.h[-1].mlp.c_proj.bias.add_(5.0)
    before, after = (split(m, IDS, answer=ANSWER, wrong=WRONG).data for m in (plain, shifted))
    np.testing.assert_allclose(before.contribution, after.contribution, atol=1e-4)


def test_accumulated_is_the_lens_with_the_final_norm_held() -> None:
    model = wrapped("gpt2")
    hand = ByHand(model, FAMILIES["gpt2"], IDS)
    data = split(model, IDS, answer=ANSWER, wrong=WRONG).data
    states = [hand.embed]
    for attn, mlp in zip(hand.attn, hand.mlp, strict=True):
        states += [states[-1] + attn, states[-1] + attn + mlp]
    expected = [hand.part(state) + hand.constant() for state in states]
    np.testing.assert_allclose(data.accumulated, expected, atol=1e-4)
    assert data.point.values[:3].tolist() == ["embed", "0_mid", "0_post"]


def test_a_parallel_block_has_no_point_between_its_sublayers() -> None:
    model = wrapped("gpt_neox")
    data = split(model, IDS, answer=ANSWER, wrong=WRONG).data
    assert data.point.values.tolist() == ["embed", *(f"{i}_post" for i in range(model.n_layers))]
    parts = data.contribution.values
    expected = parts[-1] + np.cumsum(parts[:-1])[::2]
    np.testing.assert_allclose(data.accumulated, expected, atol=1e-5)


def test_centring_measures_from_the_mean_logit() -> None:
    model = wrapped("llama")
    with torch.no_grad():
        z = model.hf(torch.tensor([IDS])).logits[0, -1]
    centred = split(model, IDS, answer=ANSWER, center=True)
    assert float(centred.data.contribution.sum()) == pytest.approx(
        float(z[ANSWER] - z.mean()), abs=1e-4
    )
    plain = split(model, IDS, answer=ANSWER)
    assert float(plain.data.contribution.sum()) == pytest.approx(float(z[ANSWER]), abs=1e-4)
    with pytest.raises(InputError, match="center of direct_logit_attribution has an effect only"):
        split(model, IDS, answer=ANSWER, wrong=WRONG, center=True)  # a difference has no mean


def test_the_model_s_own_answer_is_the_default() -> None:
    model = wrapped("llama")
    with torch.no_grad():
        logits = model.hf(torch.tensor([IDS])).logits[0]
    for position in (-1, 2):
        data = split(model, IDS, position=position).data
        assert data.target_id.values.tolist() == [int(logits[position].argmax())]
        assert float(data.logit[0]) == pytest.approx(float(logits[position].max()), abs=1e-5)
        assert data.attrs["explained_position"] == position % len(IDS)


def test_several_texts_are_split_one_by_one() -> None:
    model = wrapped("gpt2")
    texts = [IDS, [8, 9, 10]]
    both = split(model, texts, answer=[ANSWER, 9], wrong=WRONG, unit="source").data
    for row, answer in enumerate([ANSWER, 9]):
        one = split(model, texts[row], answer=answer, wrong=WRONG, unit="source").data
        for name in ("contribution", "head_contribution", "accumulated"):
            np.testing.assert_allclose(both[name][row], one[name], atol=1e-5)
        filled = both.source_contribution[row, ..., : len(texts[row])]
        np.testing.assert_allclose(filled, one.source_contribution, atol=1e-5)
    assert both.source_contribution[1, ..., 3:].isnull().all()
    assert both.attrs["complete"]


def test_the_soft_cap_is_named() -> None:
    result = split(wrapped("gemma2"), IDS)
    assert "before the cap" in result.data.attrs["notes"]
    assert "before the cap" not in split(wrapped("llama"), IDS).data.attrs["notes"]


def test_norms_on_the_stream_are_refused_unless_they_are_frozen() -> None:
    model = wrapped("openai-gpt")
    with pytest.raises(ModelError, match="stream_norms='freeze'"):
        split(model, IDS)
    result = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="head", stream_norms="freeze")
    with torch.no_grad():
        z = model.hf(torch.tensor([IDS])).logits[0, -1]
    total = float(result.data.contribution.sum())
    assert total == pytest.approx(float(z[ANSWER] - z[WRONG]), abs=1e-4)
    # In the last block only its own norms stand behind a write: held by hand, as autograd sees it.
    norm = model.hf.transformer.h[-1].ln_2
    kept: list[Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(lambda m, args: kept.append(args[0][0, -1])),
        model.hf.transformer.h[-1].mlp.register_forward_hook(lambda *a: kept.append(a[2][0, -1])),
    ]
    with torch.no_grad():
        model.hf(torch.tensor([IDS]))
    for hook in hooks:
        hook.remove()
    write, x = kept
    s = (x.var(correction=0) + norm.eps).sqrt()
    u = model.hf.lm_head.weight[ANSWER] - model.hf.lm_head.weight[WRONG]
    part = ((norm.weight * (write - write.mean()) / s) @ u).detach()
    found = result.data.sublayer_contribution.sel(layer=model.n_layers - 1, sublayer="mlp_out")
    assert float(found) == pytest.approx(float(part), abs=1e-4)


def test_a_head_that_is_not_linear_is_refused_by_its_number() -> None:
    with pytest.raises(ModelError, match=r"is not affine.*off by 0\.\d+ of its output"):
        split(wrapped("roberta"), IDS, stream_norms="freeze")


def test_a_sum_that_misses_the_model_s_logit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = split_text.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        logits = real(*args, **kwargs)
        return None if logits is None else logits + 0.5

    monkeypatch.setattr(split_text, "forward", shifted)
    with pytest.raises(ModelError, match=r"off by 0\.5 logits"):
        split(wrapped("gpt2"), IDS)


def test_heads_that_gate_what_they_gather_cannot_be_split_by_source() -> None:
    model = wrapped("bitnet")
    assert split(model, IDS, unit="head").checks.ok
    with pytest.raises(ModelError, match="unit='head'"):
        split(model, IDS, unit="source")


def test_units_that_a_family_lacks_are_refused() -> None:
    with pytest.raises(ModelError, match="dense MLP"):
        split(wrapped("mixtral"), IDS, unit="neuron")
    with pytest.raises(ModelError, match="unit='component'"):
        split(wrapped("mamba"), IDS, unit="head")


def test_half_precision_is_split_within_its_rounding() -> None:
    hf = tiny_model("llama").to(torch.bfloat16)
    model = LensModel.wrap(hf, None, name="half", prove=False)
    result = split(model, IDS, answer=ANSWER, wrong=WRONG, unit="head")
    assert result.checks.ok
    full = split(wrapped("llama"), IDS, answer=ANSWER, wrong=WRONG, unit="head").data
    scale = float(abs(full.head_contribution).max())
    np.testing.assert_allclose(
        result.data.head_contribution, full.head_contribution, atol=0.1 * scale
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "heads"}, "did you mean 'head'"),
        ({"stream_norms": "hold"}, "Valid are refuse, freeze"),
        ({"answer": 3, "wrong": 3}, "same token"),
        ({"answer": [3, 4]}, "2 entries for 1 text:"),
        ({"position": 17}, "Position 17"),
        ({"positions": 1}, "did you mean 'position'"),
        ({"answer": 5000}, "5000"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(wrapped("gpt2"), IDS, **options)


def test_the_toy_model_s_induction_heads_carry_its_answer() -> None:
    """Which heads answer is known: those that look at what followed the token last time."""
    model = ll.load("toy:induction")
    ids = [3, 11, 7, 20, 3]
    result = ll.direct_logit_attribution(model, ids, answer=11, wrong=20, unit="source")
    best = result.data.source_contribution.sum(("layer", "head"))
    assert int(best.argmax("source")) == 1, "the answer is read where it stands"
    assert result.checks.ok


def test_it_can_be_stopped() -> None:
    class Stop(Silent):
        def cancelled(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        split.run(wrapped("gpt2"), IDS, {}, Stop())
