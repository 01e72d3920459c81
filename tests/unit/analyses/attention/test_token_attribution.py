"""ll.token_attribution: against plain PyTorch, networkx and answers that are known."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.analyses.attention.handed_over import HandedOver, sites_of_vectors
from layerlens.analyses.attention.max_flow import LayeredFlow
from layerlens.analyses.attention.mixing import MIXINGS, mean_of_heads
from layerlens.analyses.attention.through_layers import Product
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.model.tiny import tiny_model
from layerlens.run.forward import forward
from layerlens.views.answer_cell import place_of

TEXT = [5, 17, 6, 5, 29, 8, 6]


def tiny(family: str, **overrides: Any) -> LensModel:
    return LensModel.wrap(
        tiny_model(family, seed=1, **overrides), None, name=f"tiny {family}", prove=False
    )


@pytest.fixture(scope="module")
def llama() -> LensModel:
    """Pre-norm, four query heads on two of keys and values."""
    return tiny("llama")


@pytest.fixture(scope="module")
def bert() -> LensModel:
    """Post-norm."""
    return tiny("bert")


def eager(model: LensModel, text: list[int], **asked: bool) -> Any:
    """What transformers itself gives, attention included."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return model.hf(torch.tensor([text]), output_attentions=True, use_cache=False, **asked)
    finally:
        model.hf.set_attn_implementation(before)


def even(length: int) -> Tensor:
    found = torch.ones(length, length, dtype=torch.float64).tril()
    return found / found.sum(-1, keepdim=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rollout_as_published(family: str) -> None:
    model = tiny(family)
    n = len(TEXT)
    matrix, control = torch.eye(n).double(), torch.eye(n).double()
    for target in (-1, 3):
        data = ll.token_attribution(model, TEXT, target=target).data
        matrix, control = torch.eye(n).double(), torch.eye(n).double()
        for layer, attention in enumerate(eager(model, TEXT).attentions):
            mixed = 0.5 * attention[0].double().mean(0) + 0.5 * torch.eye(n)
            matrix = mixed / mixed.sum(-1, keepdim=True) @ matrix
            control = (0.5 * even(n) + 0.5 * torch.eye(n)) @ control
            found = data.isel(layer=layer)
            np.testing.assert_allclose(found.attribution, matrix[target], atol=1e-6)
            np.testing.assert_allclose(found.attribution_chance, control[target], atol=1e-7)
            np.testing.assert_allclose(found.layer_attribution, mixed[target], atol=1e-6)
            apart = (matrix[target] - control[target]).abs().sum() / 2
            assert float(found.beyond_chance) == pytest.approx(float(apart), abs=1e-6)
        np.testing.assert_allclose(data.matrix, matrix, atol=1e-6)
        np.testing.assert_allclose(data.total, 1)


def test_the_residual_share_is_a_choice(llama: LensModel) -> None:
    own = ll.token_attribution(llama, TEXT, residual=1).data.attribution
    np.testing.assert_array_equal(own[:, -1], 1)
    none = ll.token_attribution(llama, TEXT, residual=0).data.attribution
    first = eager(llama, TEXT).attentions[0][0, :, -1].mean(0)
    np.testing.assert_allclose(none[0], first, atol=1e-6)


def test_identity_attention_is_the_identity(llama: LensModel) -> None:
    own = torch.eye(6).expand(4, -1, -1)
    assert torch.equal(mean_of_heads(own, 0.5), torch.eye(6).double())
    handed, _ = handed_over(llama, layer=1)
    length = len(TEXT)
    for name in ("alti", "norm"):
        mixed = MIXINGS[name](handed, torch.eye(length).expand(4, -1, -1))
        assert torch.equal(mixed, torch.eye(length).double()), name


def test_even_attention_both_ways_ends_even() -> None:
    product = Product(5)
    for _ in range(40):
        product.add(mean_of_heads(torch.full((2, 5, 5), 0.2), 0.5).numpy())
    np.testing.assert_allclose(product.matrix, 0.2, atol=1e-9)


def test_a_learnt_sink_takes_no_share() -> None:
    pattern = torch.tensor([[[0.5, 0.0], [0.1, 0.3]]])
    expected = [[1.0, 0.0], [0.125, 0.875]]
    np.testing.assert_allclose(mean_of_heads(pattern, 0.5), expected, atol=1e-7)


def test_flow_of_one_layer_is_its_matrix_and_bottlenecks_hold() -> None:
    share = np.array([[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]])
    flow = LayeredFlow(3)
    flow.add(share)
    np.testing.assert_allclose(flow.from_top(2), share[2], atol=1e-9)
    flow.add(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0.4, 0.6]]))
    # To token 0: 0.25 of 0.4 through position 1, 0.5 of 0.6 through position 2.
    np.testing.assert_allclose(flow.from_top(2), [0.75, 0.6, 0.3], atol=1e-9)
    assert flow.imbalance == 0


def test_flow_is_the_maximum_flow_of_networkx(llama: LensModel) -> None:
    n = len(TEXT)
    graph = nx.DiGraph()
    for layer, attention in enumerate(eager(llama, TEXT).attentions):
        mixed = 0.5 * attention[0].double().mean(0) + 0.5 * torch.eye(n)
        for i in range(n):
            for j in range(i + 1):
                graph.add_edge((layer + 1, i), (layer, j), capacity=float(mixed[i, j]))
    top = (llama.n_layers, n - 1)
    expected = np.array([nx.maximum_flow_value(graph, top, (0, j)) for j in range(n)])
    result = ll.token_attribution(llama, TEXT, method="flow")
    last = result.data.isel(layer=-1)
    np.testing.assert_allclose(last.attribution * last.total, expected, atol=1e-6)
    assert [(check.name, check.error) for check in result.checks] == [("conserved", 0)]
    assert "matrix" not in result.data


def handed_over(model: LensModel, layer: int, *more: str) -> tuple[HandedOver, dict[str, Tensor]]:
    """The vectors of one layer, and what they were made from."""
    raw: dict[str, Tensor] = {}
    sites = [*sites_of_vectors(model, layer), *(Site(kind, layer) for kind in more)]

    def keep(site: Site, value: Tensor) -> None:
        raw[site.kind] = value[0].clone()

    forward(model, model.tokens(TEXT), sites, keep, logits=None)
    with model.running():
        return HandedOver(model, layer, raw), raw


def vectors(handed: HandedOver, pattern: Tensor) -> Tensor:
    return torch.cat([found for _, found in handed.vectors(pattern)])


def test_vectors_from_the_weights_alone(llama: LensModel) -> None:
    """``sum over heads of a_ij x_j W_V W_O``, with the residual on the diagonal."""
    handed, raw = handed_over(llama, layer=1)
    block = llama.hf.model.layers[1]
    width = block.self_attn.head_dim
    with torch.inference_mode():
        x = block.input_layernorm(raw["resid_pre"])
        expected = torch.zeros(len(x), len(x), x.shape[-1])
        for head in range(4):
            group = slice(head // 2 * width, (head // 2 + 1) * width)
            v = x @ block.self_attn.v_proj.weight[group].T
            write = v @ block.self_attn.o_proj.weight[:, head * width : (head + 1) * width].T
            expected += raw["pattern"][head][:, :, None] * write
        expected += torch.eye(len(x))[:, :, None] * raw["resid_pre"]
    torch.testing.assert_close(vectors(handed, raw["pattern"]), expected, rtol=1e-4, atol=1e-5)
    lengths = expected.norm(dim=-1).double()
    shares = lengths / lengths.sum(-1, keepdim=True)
    torch.testing.assert_close(
        MIXINGS["norm"](handed, raw["pattern"]), shares, rtol=1e-4, atol=1e-6
    )
    total = expected.sum(1)
    l1 = total.abs().sum(-1)[:, None] - (total[:, None] - expected).abs().sum(-1)
    nearer = l1.clamp(min=0).double()
    nearer /= nearer.sum(-1, keepdim=True)
    torch.testing.assert_close(
        MIXINGS["alti"](handed, raw["pattern"]), nearer, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "granite", "gpt_neox", "gpt_oss", "bert"])
def test_vectors_add_up_to_what_the_model_writes(family: str) -> None:
    """Biases, norms behind the projection, a scale, parallel blocks, a learnt sink, post-norm."""
    model = tiny(family)
    for method in ("norm", "alti"):
        result = ll.token_attribution(model, TEXT, method=method)
        names = {"sublayer", "rows"} | ({"norm"} if family == "bert" else set())
        assert {check.name for check in result.checks} == names
        assert result.checks.ok
        np.testing.assert_allclose(result.data.attribution.sum("position"), 1)
        np.testing.assert_allclose(result.data.matrix.sum("key"), 1)


def norm_held(norm: nn.LayerNorm, parts: Tensor, whole: Tensor) -> Tensor:
    """A LayerNorm's linear part, with the deviation of the sum."""
    deviation = (whole.var(-1, unbiased=False) + norm.eps).sqrt()
    deviation = deviation.view(-1, *[1] * (parts.dim() - 1))
    return norm.weight * (parts - parts.mean(-1, keepdim=True)) / deviation


def test_globenc_as_published(bert: LensModel) -> None:
    """The formula of Modarressi et al. from BERT's own weights."""
    n, result = len(TEXT), ll.token_attribution(bert, TEXT, method="globenc")
    matrix = torch.eye(n).double()
    hidden = eager(bert, TEXT, output_hidden_states=True)
    for layer, block in enumerate(bert.hf.bert.encoder.layer):
        x, pattern = hidden.hidden_states[layer][0], hidden.attentions[layer][0]
        out = block.attention.output
        with torch.inference_mode():
            v = block.attention.self.value(x).unflatten(-1, (4, -1))
            w = out.dense.weight.unflatten(-1, (4, -1))
            y = torch.einsum("hij,jhe,dhe->ijd", pattern, v, w)
            y += torch.eye(n)[:, :, None] * x
            before = y.sum(1) + out.dense.bias
            first = norm_held(out.LayerNorm, y, before)
            mid = out.LayerNorm(before)
            second = block.output.dense(block.intermediate(mid)) + mid
            lengths = norm_held(block.output.LayerNorm, first, second).norm(dim=-1)
        matrix = lengths.double() @ matrix
    expected = matrix[-1] / matrix[-1].sum()
    np.testing.assert_allclose(result.data.attribution[-1], expected, rtol=1e-4)
    assert float(result.data.total[-1]) == pytest.approx(float(matrix[-1].sum()), rel=1e-4)


def test_long_texts_are_taken_in_chunks(llama: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ll.token_attribution(llama, TEXT, method="alti").data
    monkeypatch.setattr("layerlens.analyses.attention.handed_over.CHUNK_BYTES", 2000)
    parts = ll.token_attribution(llama, TEXT, method="alti").data
    np.testing.assert_allclose(whole.attribution, parts.attribution, rtol=1e-6)


@pytest.mark.parametrize("method", ["rollout", "flow", "alti"])
def test_several_texts_as_one_by_one(llama: LensModel, method: str) -> None:
    texts = [TEXT, TEXT[:4]]
    for side in ("right", "left"):
        tokens = llama.tokens(texts, padding_side=side)
        both = ll.token_attribution(llama, tokens, method=method).data
        for row, text in enumerate(texts):
            alone = ll.token_attribution(llama, text, method=method).data
            found = both.isel(batch=row, position=slice(0, len(text)))
            np.testing.assert_allclose(found.attribution, alone.attribution, atol=1e-6)
        assert np.isnan(both.attribution[1, :, 4:]).all()
        assert both.attrs["target_position"] == "[6, 3]"


def test_half_precision_adds_up(llama: LensModel) -> None:
    model = LensModel.wrap(
        tiny_model("llama", seed=1).bfloat16(), None, name="bfloat16", prove=False
    )
    result = ll.token_attribution(model, TEXT, method="alti")
    assert result.checks.ok
    full = ll.token_attribution(llama, TEXT, method="alti").data.attribution
    np.testing.assert_allclose(result.data.attribution, full, atol=0.05)


def test_a_target_in_words_and_a_result_that_opens() -> None:
    model = ll.load("toy:induction")
    result = ll.token_attribution(model, "cat dog owl cat", target="owl", method="norm")
    place = result.data.attrs["target_position"]
    assert result.data.token.values[place] == "owl"
    assert (result.data.attribution.values[:, place + 1 :] == 0).all()
    assert result.code == (
        "ll.token_attribution(model, 'cat dog owl cat', method='norm', target='owl')"
    )
    figure = result.figure()
    assert figure.axes


def test_a_cell_opens_all_tokens_at_its_layer(llama: LensModel) -> None:
    result = ll.token_attribution(llama, TEXT, method="alti", target=5)
    place = place_of(result.data, {"array": "attribution", "index": [1, 2]})
    found = ll.token_attribution.open(llama, TEXT, {"method": "alti", "target": 5}, place)
    rows = {row[0]: row[2:] for row in found.tables[0].rows}
    at = result.data.isel(layer=1)
    for position in range(len(TEXT)):
        assert rows[position] == pytest.approx(
            [
                float(at[name][position])
                for name in ("attribution", "attribution_chance", "layer_attribution")
            ],
            abs=1e-6,
        )
    assert max(mark for _, mark in found.texts[0]) == 1
    assert "after layer 1" in found.title
    whole = place_of(result.data, {"array": "matrix", "index": [1, 2]})
    with pytest.raises(InputError, match="has no layer"):
        ll.token_attribution.open(llama, TEXT, {}, whole)


def test_layers_without_attention_keep_each_position() -> None:
    model = tiny("jamba")
    result = ll.token_attribution(model, TEXT)
    bare = [i for i, block in enumerate(model.anatomy.blocks) if block.attention is None]
    assert bare
    own = np.eye(len(TEXT))[-1]
    for layer in bare:
        np.testing.assert_array_equal(result.data.layer_attribution[layer], own)
    assert f"Layers {', '.join(map(str, bare))} have no attention" in result.data.attrs["notes"]


def test_estimate_runs_nothing(llama: LensModel) -> None:
    found = {m: ll.estimate("token_attribution", llama, TEXT, method=m) for m in MIXINGS}
    assert {estimate.passes for estimate in found.values()} == {1}
    flow = ll.estimate("token_attribution", llama, TEXT, method="flow")
    rollout = ll.estimate("token_attribution", llama, TEXT)
    assert math.isfinite(flow.seconds)
    assert flow.seconds > rollout.seconds


def test_what_is_refused(llama: LensModel) -> None:
    with pytest.raises(InputError, match="did you mean 'rollout'"):
        ll.token_attribution(llama, TEXT, method="rolout")
    with pytest.raises(
        InputError, match="residual of token_attribution has an effect only with method='rollout'"
    ):
        ll.token_attribution(llama, TEXT, method="alti", residual=0.5)
    with pytest.raises(InputError, match=r"residual is 1\.5"):
        ll.token_attribution(llama, TEXT, residual=1.5)
    with pytest.raises(InputError, match="has 65 tokens, but the flow is computed for 64"):
        ll.token_attribution(tiny("gpt2", n_positions=80), [3] * 65, method="flow")
    with pytest.raises(ModelError, match="globenc is defined for post-norm blocks"):
        ll.token_attribution(llama, TEXT, method="globenc")
    with pytest.raises(ModelError, match="has no attention that could be watched"):
        ll.token_attribution(tiny("mamba"), TEXT)
    gated = tiny("qwen3_next")
    with pytest.raises(ModelError, match="gates or norms what its heads hand on"):
        ll.token_attribution(gated, TEXT, method="norm")
    assert ll.token_attribution(gated, TEXT).checks.ok


def test_a_sum_that_does_not_hold_is_refused(
    llama: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(*args: Any) -> Tensor:
        from layerlens.run.forward import head_writes

        return 2 * head_writes(*args)

    monkeypatch.setattr("layerlens.analyses.attention.handed_over.head_writes", doubled)
    with pytest.raises(ModelError, match="does not add up to what its attention writes"):
        ll.token_attribution(llama, TEXT, method="alti")


@pytest.mark.parametrize("method", ["norm", "alti"])
def test_work_grows_with_the_vectors_between_positions(method: str) -> None:
    """One vector for each two positions, so twice the text is four times the work."""
    model = ll.load("toy:induction")
    few, many = (
        ll.token_attribution.work(model, [1, 2, 3, 4] * times, method=method).operations
        for times in (4, 8)
    )
    assert 3.8 < many / few < 4
    passing = ll.token_attribution.work(model, [1, 2, 3, 4] * 8, method="rollout").operations
    assert many > 100 * passing
