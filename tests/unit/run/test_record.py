"""Recording against plain hooks and plain transformers, on tiny models."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.run.forward import forward

IDS = [5, 17, 3, 44, 8, 60]


def perturbed(hf: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in hf.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return hf.eval()


@pytest.fixture(scope="module")
def gpt2() -> LensModel:
    config = GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=97, n_positions=32)
    return LensModel.wrap(perturbed(GPT2LMHeadModel(config)))


@pytest.fixture(scope="module")
def llama() -> LensModel:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=32,
    )
    return LensModel.wrap(perturbed(LlamaForCausalLM(config)))


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return request.getfixturevalue(request.param)


def test_stream_equals_hidden_states(model: LensModel) -> None:
    trace = ll.record(model, IDS, ["resid_pre", "resid_post"])
    with torch.inference_mode():
        expected = model.hf(torch.tensor([IDS]), output_hidden_states=True)
    for layer in range(3):
        assert torch.equal(trace["resid_pre", layer], expected.hidden_states[layer])
    for layer in range(2):  # the last one is normed in transformers
        assert torch.equal(trace["resid_post", layer], expected.hidden_states[layer + 1])
    assert torch.equal(trace.logits, expected.logits)


def test_pattern_equals_eager_attentions(model: LensModel) -> None:
    trace = ll.record(model, IDS, "pattern")
    model.hf.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model.hf(torch.tensor([IDS]), output_attentions=True).attentions
    model.hf.set_attn_implementation("sdpa")
    torch.testing.assert_close(trace["pattern"], torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_heads_have_the_shapes_of_transformer_lens(llama: LensModel) -> None:
    trace = ll.record(llama, IDS, ["q.1", "k.1", "v.1", "z.1", "result.1", "mlp_post.1"])
    assert trace["blocks.1.attn.hook_q"].shape == (1, 6, 4, 8)
    assert trace["blocks.1.attn.hook_k"].shape == (1, 6, 2, 8)
    assert trace["blocks.1.attn.hook_z"].shape == (1, 6, 4, 8)
    assert trace["blocks.1.attn.hook_result"].shape == (1, 6, 4, 32)
    assert trace["blocks.1.mlp.hook_post"].shape == (1, 6, 48)


def test_scores_become_the_pattern(model: LensModel) -> None:
    query, key = model.anatomy.blocks[2].scored
    trace = ll.record(model, IDS, ["attn_scores.2", "pattern.2", f"{query}.2", f"{key}.2"])
    scores = trace["attn_scores", 2]
    assert torch.isinf(scores[0, 0]).sum() == 15  # everything ahead is masked
    torch.testing.assert_close(scores.softmax(-1), trace["pattern", 2])
    k = trace[key, 2].repeat_interleave(4 // trace[key, 2].shape[2], dim=2)
    product = torch.einsum("bqhd,bkhd->bhqk", trace[query, 2], k) / 8**0.5
    seen = ~torch.isinf(scores)
    torch.testing.assert_close(product[seen], scores[seen])


def test_recording_everything_changes_no_logit(model: LensModel) -> None:
    with torch.inference_mode():
        plain = model.hf(torch.tensor([IDS])).logits
    logits, cache = model.run_with_cache(IDS)
    assert torch.equal(logits, plain)
    assert "blocks.2.attn.hook_pattern" in cache and "ln_final.hook_normalized" in cache


def test_one_head_and_some_positions_only(model: LensModel) -> None:
    whole = ll.record(model, IDS, ["z.1", "pattern.1", "resid_mid.0"])
    part = ll.record(model, IDS, ["z.1.3", "pattern.1.2", "resid_mid.0"], positions=[1, -1])
    assert torch.equal(part["z.1.3"], whole["z.1"][:, [1, 5], 3])
    assert torch.equal(part["pattern.1.2"], whole["pattern.1"][:, 2, [1, 5]])
    assert torch.equal(part["resid_mid.0"], whole["resid_mid.0"][:, [1, 5]])
    heads = ll.record(model, IDS, "z.1", heads=[2, 0])
    assert torch.equal(heads["z.1"], whole["z.1"][:, :, [2, 0]])
    assert part["resid_mid.0"].untyped_storage().nbytes() == 2 * 32 * 4  # the rest is freed


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_gives_what_one_by_one_gives(model: LensModel, side: str) -> None:
    rows = [IDS, IDS[:2], IDS[1:5]]
    tokens = model.tokens(rows, padding_side=side)
    sites = ["resid_post", "z", "mlp_out", "q"]
    batched = ll.record(model, tokens, sites)
    for row, ids in enumerate(rows):
        alone = ll.record(model, ids, sites)
        real = tokens.mask[row]
        for name in alone:
            torch.testing.assert_close(
                batched[name][row, real], alone[name][0], atol=1e-5, rtol=1e-5
            )


def test_sites_arrive_while_the_model_runs(model: LensModel) -> None:
    seen: list[str] = []
    ran: list[int] = []
    handles = [
        model.hf.get_submodule(block.path).register_forward_hook(
            lambda *_, layer=layer: ran.append(layer)
        )
        for layer, block in enumerate(model.anatomy.blocks)
    ]
    ll.record(
        model,
        IDS,
        "resid_pre",
        on_site=lambda site, value: seen.append(f"{site.layer} after {len(ran)} blocks"),
    )
    for handle in handles:
        handle.remove()
    assert seen == ["0 after 0 blocks", "1 after 1 blocks", "2 after 2 blocks"]


def test_a_pass_without_logits_ends_before_the_head(model: LensModel) -> None:
    assert model.anatomy.head is not None
    head = model.hf.get_submodule(model.anatomy.head.head)
    ran: list[int] = []
    handle = head.register_forward_hook(lambda module, args, out: ran.append(out.shape[1]))
    got: dict[Site, torch.Tensor] = {}
    sites = [Site("resid_post", 2), Site("head_input")]
    given = forward(model, model.tokens(IDS), sites, got.__setitem__, logits=None)
    assert given is None and not ran
    with torch.inference_mode():
        expected = model.hf.base_model(torch.tensor([IDS])).last_hidden_state
        assert torch.equal(got[Site("head_input")], expected)
        assert model.hf(torch.tensor([IDS])).logits.shape[1] == 6 and ran == [6]
    handle.remove()


def test_error_inside_leaves_no_hook_and_no_config(model: LensModel) -> None:
    modules = list(model.hf.modules())
    configs = [getattr(module, "config", None) for module in modules]
    # transformers itself leaves hooks behind once output_hidden_states was asked for
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]

    def fail(site: Site, value: torch.Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ll.record(model, IDS, ["pattern.1", "resid_post"], on_site=fail)
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    assert all(
        getattr(module, "config", None) is config
        for module, config in zip(modules, configs, strict=True)
    )


def test_train_mode_is_put_back_and_dropout_stays_off(llama: LensModel) -> None:
    before = ll.record(llama, IDS, "resid_post")
    llama.hf.train()
    llama.hf.model.layers[1].eval()
    again = ll.record(llama, IDS, "resid_post")
    assert torch.equal(before["resid_post"], again["resid_post"])
    assert llama.hf.training and not llama.hf.model.layers[1].training
    llama.hf.eval()


def test_other_threads_are_not_recorded(model: LensModel) -> None:
    """A user's own pass in another thread, in the middle of ours, fires nothing of ours."""
    other: list[torch.Tensor] = []

    def run_elsewhere() -> None:
        with torch.inference_mode():
            other.append(model.hf(torch.tensor([[1, 2]])).logits)

    with torch.inference_mode():
        expected = model.hf(torch.tensor([[1, 2]])).logits
    shapes = []

    def on_site(site: Site, value: torch.Tensor) -> None:
        shapes.append(value.shape[1])
        if not other:
            thread = threading.Thread(target=run_elsewhere)
            thread.start()
            thread.join()

    ll.record(model, IDS, ["resid_post", "q"], on_site=on_site)
    assert shapes == [6] * 6
    torch.testing.assert_close(other[0], expected)


def test_values_may_be_unembedded_inside_the_pass(model: LensModel) -> None:
    """Calling the head from on_site does not count as the model calling it."""
    rows = []

    def on_site(site: Site, value: torch.Tensor) -> None:
        rows.append(model.unembed(value))

    sites = [Site("resid_post", 0), Site("resid_post", 2)]
    fired = []
    logits = forward(
        model,
        model.tokens(IDS),
        [*sites, Site("head_input")],
        lambda s, v: on_site(s, v) if s.kind != "head_input" else fired.append(v),
        logits="all",
    )
    assert len(fired) == 1
    torch.testing.assert_close(rows[-1], logits)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("resid_pots", "Did you mean 'resid_post'"),
        ("resid_post.3", "layers 0 to 2"),
        ("z.0.9", "query heads"),
        ("resid_post.0.1", "no heads"),
    ],
)
def test_wrong_sites_are_refused(model: LensModel, sites: str, message: str) -> None:
    with pytest.raises(ll.SiteError, match=message):
        ll.record(model, IDS, sites)


def test_grouped_query_heads_are_named(llama: LensModel) -> None:
    with pytest.raises(ll.SiteError, match="2 key-value heads"):
        ll.record(llama, IDS, "k.0.3")


def test_a_site_that_never_fires_is_an_error(
    llama: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = llama.hf.model.layers[1].mlp
    monkeypatch.setattr(layer, "forward", lambda x: layer.down_proj(layer.up_proj(x)))
    with pytest.raises(ll.SiteError, match="fired 0 times"):
        ll.record(llama, IDS, "mlp_pre.1")


def test_names_filter_of_transformer_lens(model: LensModel) -> None:
    _, cache = model.run_with_cache(IDS, names_filter=lambda name: name.endswith("resid_post"))
    assert list(cache) == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    _, cache = model.run_with_cache(IDS, names_filter="blocks.1.hook_mlp_out")
    assert list(cache) == ["blocks.1.hook_mlp_out"]
    _, cache = model.run_with_cache(IDS, names_filter=["attentions_output"])
    assert len(cache) == 3 and cache["attn_out", -1].shape == (1, 6, 32)
