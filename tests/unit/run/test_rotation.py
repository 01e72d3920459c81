"""q and k before rotary embeddings and after, to read and to edit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.errors import SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

IDS = [5, 9, 14, 3, 77, 20]
SEPARATE = ["llama", "qwen3", "gemma3_text", "olmo2", "cohere", "glm", "gptj", "phi"]
FUSED = ["gpt_neox", "phi3", "falcon", "codegen", "persimmon"]


def wrapped(family: str) -> LensModel:
    return LensModel.wrap(tiny_model(family), None, prove=False)


def turned(x: Tensor, base: float) -> Tensor:
    """Rotary embeddings of ``[position, head, width]`` by halves, computed here."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * base ** -(torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def test_rotation_lies_between_the_two() -> None:
    model = wrapped("llama")
    trace = ll.record(model, IDS, ["q", "k", "rot_q", "rot_k", "hook_v"])
    attention = model.hf.model.layers[1].self_attn
    seen: dict[str, Tensor] = {}
    for name in ("q", "k"):
        module = getattr(attention, f"{name}_proj")
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        model.hf(torch.tensor([IDS]))
    base = model.hf.config.rope_parameters["rope_theta"]
    for name, heads in (("q", model.n_heads), ("k", model.n_kv_heads)):
        plain = seen[name].unflatten(-1, (heads, -1))
        assert torch.equal(trace[f"blocks.1.attn.hook_{name}"], plain)
        torch.testing.assert_close(trace[f"rot_{name}.1"][0], turned(plain[0], base))
        assert torch.equal(trace[f"{name}.1"][:, 0], trace[f"rot_{name}.1"][:, 0])


@pytest.mark.parametrize("family", [*SEPARATE, *FUSED])
def test_setting_its_own_value_changes_nothing_and_another_does(family: str) -> None:
    model = wrapped(family)
    with torch.no_grad():
        plain = ll.run(model, IDS).logits
    trace = ll.record(model, IDS, ["q", "k", "rot_q", "rot_k"])
    for kind in ("q", "k"):
        before, after = trace[f"{kind}.1"], trace[f"rot_{kind}.1"]
        assert before.shape == after.shape and not torch.allclose(before[:, 1:], after[:, 1:])
        own = ll.run(model, IDS, ll.edit(f"{kind}.1", "set", before[0])).logits
        assert torch.equal(own, plain)
        spoilt = ll.run(model, IDS, ll.edit(f"{kind}.1.0", "zero", position=2), sites=f"{kind}.1")
        assert not spoilt[f"{kind}.1"][0, 2, 0].any()
        untouched = spoilt[f"{kind}.1"] == before
        assert untouched[0, :2].all() and untouched[0, 2, 1:].all()
        assert not torch.equal(spoilt.logits, plain)


def test_a_head_set_before_rotation_is_set_after_it() -> None:
    model = wrapped("gpt_neox")
    other = ll.record(model, [8, 7, 6, 5, 4, 3], ["q", "rot_q"])
    before = ll.edit("q.1.2", "set", other["q.1"][0, :, 2])
    after = ll.edit("rot_q.1.2", "set", other["rot_q.1"][0, :, 2])
    torch.testing.assert_close(ll.run(model, IDS, before).logits, ll.run(model, IDS, after).logits)


def test_norms_stand_between_the_projection_and_the_rotation() -> None:
    model = wrapped("qwen3")
    trace = ll.record(model, IDS, ["q.0", "rot_q.0"])
    normed = model.hf.model.layers[0].self_attn.q_norm(trace["q.0"])
    base = model.hf.config.rope_parameters["rope_theta"]
    torch.testing.assert_close(trace["rot_q.0"][0], turned(normed[0], base))


def test_a_family_without_rotation_has_one_q() -> None:
    model = wrapped("gpt2")
    names = set(map(str, model.anatomy.available()))
    assert "blocks.0.attn.hook_q" in names and "blocks.0.attn.hook_rot_q" not in names
    with pytest.raises(SiteError, match="has no rotary embeddings; read q"):
        ll.record(model, IDS, "rot_q.0")
    with pytest.raises(SiteError, match="has no rotary embeddings"):
        ll.run(model, IDS, ll.edit("rot_k.0", "zero"))


def test_layers_without_rotation_in_a_family_with_it() -> None:
    model = wrapped("smollm3")
    rotary = [block.rotary for block in model.anatomy.blocks]
    assert True in rotary and False in rotary
    with pytest.raises(SiteError, match="has no rotary embeddings; read q"):
        ll.record(model, IDS, f"rot_q.{rotary.index(False)}")


def test_keys_that_are_put_together_are_known_after_rotation_only() -> None:
    model = wrapped("deepseek_v3")
    trace = ll.record(model, IDS, ["q.0", "rot_q.0", "rot_k.0"])
    assert trace["q.0"].shape == trace["rot_q.0"].shape
    with pytest.raises(SiteError, match=r"put together from several modules.*rot_k"):
        ll.record(model, IDS, "k.0")


@pytest.mark.parametrize("site", ["q", "k", "rot_q", "rot_k"])
def test_sweeps_equal_the_naive_run(site: str) -> None:
    model = wrapped("llama")
    found = {}
    for method in ("auto", "naive"):
        grid = ll.patch_sweep(
            model, IDS, [5, 9, 44, 3, 77, 20], site=site, by="head", answer=7, wrong=8,
            method=method,
        )  # fmt: skip
        assert all(check.ok for check in grid.checks)
        found[method] = torch.from_numpy(grid.data.metric.values)
    torch.testing.assert_close(found["auto"], found["naive"], atol=1e-4, rtol=1e-4)


def test_patching_before_and_after_rotation_is_the_same_at_the_same_position() -> None:
    model = wrapped("llama")
    pair = {"clean": IDS, "corrupt": [5, 9, 44, 3, 77, 20], "answer": 7, "wrong": 8}
    for kind in ("q", "k"):
        grids = [ll.patch_sweep(model, site=s, by="head", **pair) for s in (kind, f"rot_{kind}")]
        one, two = (torch.from_numpy(grid.data.metric.values) for grid in grids)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        effects = [
            ll.attribution_patch(model, site=s, by="head", **pair) for s in (kind, f"rot_{kind}")
        ]
        one, two = (torch.from_numpy(found.data.attribution.values) for found in effects)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)
