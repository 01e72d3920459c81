"""Every operation against plain hooks, and against what is known without running anything."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import layerlens as ll

from .plain import CASES, FAMILIES, IDS, OTHER, PLACES, logits, tiny, values

WIDTH = 8  # of a head in the tiny models


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def edited(model: ll.LensModel, *edits: ll.Edit, ids: list[int] = IDS) -> Tensor:
    return ll.run(model, ids, edits).logits


def at(alter: Any, *positions: int) -> Any:
    """Alter some positions of ``[batch, position, width]`` only."""

    def altering(value: Tensor) -> Tensor:
        where = list(positions) or list(range(value.shape[1]))
        value[:, where] = alter(value[:, where])
        return value

    return altering


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_set_add_scale_and_zero_do_what_a_hook_does(family: str, kind: str) -> None:
    model = tiny(family)
    width = values(model, IDS, kind, 1).shape[1]
    vector = torch.linspace(-1, 1, width)
    rows = torch.stack([vector, 2 * vector.flip(0)])
    shape = (-1, WIDTH) if kind in ("z", "v") else (width,)
    site = f"{kind}.1"
    pairs = [
        (ll.edit(site, "zero", position=2), at(lambda old: 0 * old, 2)),
        (ll.edit(site, "scale", -2), at(lambda old: old * -2)),
        (ll.edit(site, "set", 1.5, position=[0, -1]), at(lambda old: 1.5 + 0 * old, 0, 5)),
        (ll.edit(site, "add", vector.view(shape)), at(lambda old: old + vector)),
        (ll.edit(site, "set", vector.view(shape), position=3), at(lambda old: vector + 0 * old, 3)),
        (
            ll.edit(site, "set", rows.view(2, *shape), position=slice(1, 3)),
            at(lambda old: rows + 0 * old, 1, 2),
        ),
    ]
    plain = logits(model, IDS)
    for edit, alter in pairs:
        expected = logits(model, IDS, (kind, 1, alter))
        assert (expected - plain).abs().max() > 1e-4  # the edit matters
        close(edited(model, edit), expected)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_values_of_other_runs_do_what_a_hook_does(family: str, kind: str) -> None:
    model = tiny(family)
    there = values(model, OTHER, kind, 1)
    pool = torch.cat([there, values(model, IDS[:3], kind, 1)])
    later = values(model, OTHER, kind, 2)
    short = values(model, OTHER[:4], kind, 1)
    site = f"{kind}.1"
    pairs: list[tuple[ll.Edit, Any]] = [
        (ll.edit(site, "resample", OTHER), at(lambda old: there + 0 * old)),
        (ll.edit(site, "resample", OTHER, position=[1, 4]), at(lambda old: there[[1, 4]], 1, 4)),
        (ll.edit(site, "mean", [OTHER, IDS[:3]]), at(lambda old: pool.mean(0) + 0 * old)),
        (
            ll.edit(site, "set", ll.source(OTHER, f"{kind}.2", 3), position=[0, 2]),
            at(lambda old: later[3] + 0 * old, 0, 2),
        ),
        (
            ll.edit(site, "set", ll.source(OTHER[:4], position=-1), position=-1),
            at(lambda old: short[-1] + 0 * old, 5),
        ),
    ]
    for edit, alter in pairs:
        close(edited(model, edit), logits(model, IDS, (kind, 1, alter)))


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_are_projected_out(family: str) -> None:
    model = tiny(family)
    found = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    span = torch.linalg.pinv(found) @ found  # another way to the projector than QR
    edit = ll.edit("resid_post.1", "project_out", found, position=[1, 2])
    alter = at(lambda old: old - old @ span, 1, 2)
    close(edited(model, edit), logits(model, IDS, ("resid_post", 1, alter)))
    close(edited(model, edit, edit), edited(model, edit))  # there is nothing left to remove
    once = ll.record(model, IDS, "resid_post.1", edits=edit)["resid_post.1"][0]
    assert (once[[1, 2]] @ found.T).abs().max() < 1e-4
    assert (once[[0, 3]] @ found.T).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_several_heads_and_neurons_at_once(family: str) -> None:
    model = tiny(family)

    def two_heads(old: Tensor) -> Tensor:
        old.unflatten(-1, (4, WIDTH))[:, 2, [0, 3]] = 0
        return old

    expected = logits(model, IDS, ("z", 1, two_heads))
    close(edited(model, ll.edit("z.1", "zero", head=[0, 3], position=2)), expected)
    one_by_one = [ll.edit(f"z.1.{head}", "zero", position=2) for head in (3, 0)]
    assert torch.equal(edited(model, *one_by_one), expected)

    each = torch.arange(2.0 * WIDTH).view(2, WIDTH) / 10

    def own_values(old: Tensor) -> Tensor:
        old.unflatten(-1, (4, WIDTH))[:, :, [0, 3]] = each
        return old

    close(
        edited(model, ll.edit("z.1", "set", each, head=[0, 3])),
        logits(model, IDS, ("z", 1, own_values)),
    )

    def two_neurons(old: Tensor) -> Tensor:
        old[:, 4, [1, 7]] = torch.tensor([3.0, -3.0])
        return old

    close(
        edited(model, ll.edit("mlp_post.1", "set", [3, -3], neuron=[1, 7], position=4)),
        logits(model, IDS, ("mlp_post", 1, two_neurons)),
    )


def test_a_key_value_head_serves_its_group() -> None:
    model = tiny("llama")  # 4 query heads, 2 key-value heads

    def second(old: Tensor) -> Tensor:
        old.unflatten(-1, (2, WIDTH))[:, 1, 1] = 0
        return old

    close(
        edited(model, ll.edit("v.1.1", "zero", position=1)),
        logits(model, IDS, ("v", 1, second)),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_blocked_attention_is_a_mask(family: str) -> None:
    """Against transformers' eager attention with minus infinity in its additive mask."""
    model = tiny(family)
    path, _ = PLACES[family]["attn_out"]
    module = model.hf.get_submodule(
        path.format(l=1).replace("post_attention_layernorm", "self_attn")
    )

    def masked(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        length = len(IDS)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        if kwargs.get("attention_mask") is not None:
            mask = kwargs["attention_mask"][0, 0].clone()
        mask = mask.expand(1, 4, length, length).clone()
        mask[:, 2, 4, 3] = torch.finfo(torch.float32).min
        mask[:, 2, 5, 3] = torch.finfo(torch.float32).min
        return args, {**kwargs, "attention_mask": mask}

    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    with ExitStack() as stack, torch.no_grad():
        stack.callback(module.register_forward_pre_hook(masked, with_kwargs=True).remove)
        expected = model.hf(torch.tensor([IDS]), use_cache=False).logits
    model.hf.set_attn_implementation(before)
    edit = ll.edit("attn_scores.1.2", "block", position=[4, 5], key=3)
    assert (expected - logits(model, IDS)).abs().max() > 1e-4
    close(edited(model, edit), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_an_edited_pattern_weighs_the_values(family: str) -> None:
    model = tiny(family)
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.hf(torch.tensor([IDS]), use_cache=False, output_attentions=True)
    model.hf.set_attn_implementation(before)
    pattern = output.attentions[1][0, 1].clone()
    v = ll.record(model, IDS, "v.1")["v.1"][0]
    v = v[:, 1 // (4 // v.shape[1])]
    pattern[4, 2] *= 3

    def head_1(old: Tensor) -> Tensor:
        old.unflatten(-1, (4, WIDTH))[0, :, 1] = pattern @ v
        return old

    expected = logits(model, IDS, ("z", 1, head_1))
    close(edited(model, ll.edit("pattern.1.1", "scale", 3, position=4, key=2)), expected)
    close(edited(model, ll.edit("pattern.1.1", "set", pattern)), expected)


def test_a_number_in_an_attention_stays_out_of_the_future() -> None:
    model = tiny("gemma2")  # layer 0 looks back over a window of 3
    for edit in (
        ll.edit("pattern.0", "set", 0.25),
        ll.edit("pattern.0", "add", 0.25),
        ll.edit("attn_scores.0", "zero"),
        ll.edit("attn_scores.0", "scale", -1),
        ll.edit("attn_scores.0", "add", 2),
    ):
        pattern = ll.record(model, IDS, "pattern.0", edits=edit)["pattern.0"][0]
        outside = torch.ones(6, 6).tril().triu(-2) == 0
        assert (pattern[:, outside] == 0).all(), edit
        assert (pattern[:, ~outside] > 0).all(), edit


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_without_effect_change_nothing(family: str) -> None:
    model = tiny(family)
    plain = logits(model, IDS)
    trace = ll.record(model, IDS, list(PLACES[family]))
    for kind in PLACES[family]:
        for edit in (
            ll.edit(kind, "set", trace[f"{kind}.1"][0], layer=1),
            ll.edit(kind, "scale", 1, layer=range(3)),
            ll.edit(kind, "add", 0, layer=-1),
            ll.edit(kind, "freeze", layer=[0, 2]),
            ll.edit(kind, "resample", IDS, layer=1),
            ll.edit(kind, "set", ll.source(IDS, kind, position=2), layer=1, position=2),
        ):
            # A sublayer's output that is scaled or summed on its way is rounded once more.
            assert torch.equal(edited(model, edit), plain), edit
    ahead = ll.edit("attn_scores", "block", layer=range(3), position=[0, 1], key=[3, 4])
    close(edited(model, ahead), plain)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_without_writes_the_logits_are_those_of_the_embedding(family: str) -> None:
    model = tiny(family)
    layers = range(model.n_layers)
    found = edited(
        model, *(ll.edit(kind, "zero", layer=layers) for kind in ("attn_out", "mlp_out"))
    )
    start = ll.record(model, IDS, "resid_pre.0")["resid_pre.0"]
    with torch.inference_mode():
        close(found, model.unembed(start))


def test_the_mean_of_a_constant_is_that_constant() -> None:
    model = tiny("llama")
    constant = torch.linspace(-1, 1, 32)
    fixed = ll.edit("attn_out.1", "set", constant)
    for value in ([[1.0, 2.0, 3.0, 4.0] * 8, [3.0, 4.0, 5.0, 6.0] * 8], torch.ones(3, 5, 32)):
        mean = ll.edit("attn_out.1", "mean", value)
        level = torch.as_tensor(value).view(-1, 32).mean(0)
        close(edited(model, mean), edited(model, ll.edit("attn_out.1", "set", level)))
    assert torch.equal(
        edited(model, fixed, ll.edit("attn_out.1", "mean", constant.expand(4, 32))),
        edited(model, fixed),
    )
    # where the token alone decides (the embedding), a text of one token has a constant
    same = [7, 7, 7]
    held = ll.edit("embed", "mean", [same, [7]])
    close(edited(model, held, ids=same), logits(model, same))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "bloom"])
def test_without_other_keys_a_position_depends_on_its_token_only(family: str) -> None:
    model = tiny(family)
    edits = [
        ll.edit("attn_scores", "block", layer=range(model.n_layers), position=query, key=keys)
        for query in range(6)
        if (keys := [key for key in range(6) if key != query])
    ]
    one = edited(model, *edits)
    changed = [*IDS[:2], 90, *IDS[3:]]
    other = edited(model, *edits, ids=changed)
    same = [0, 1, 3, 4, 5]
    close(one[:, same], other[:, same])
    assert (one[:, 2] - other[:, 2]).abs().max() > 0.01
    assert (logits(model, IDS)[:, 3:] - logits(model, changed)[:, 3:]).abs().max() > 0.01


def test_frozen_parts_hold_whatever_comes_before() -> None:
    model = tiny("llama")
    plain = ll.record(model, IDS, ["z", "mlp_out", "pattern.2"])
    edits = [ll.edit("resid_post.0", "add", 1.0), ll.edit("z", "freeze", layer=[1, 2], head=[0, 2])]
    found = ll.record(model, IDS, ["z", "mlp_out"], edits=edits)
    for layer in (1, 2):
        held = [0, 2]
        assert torch.equal(found["z", layer][:, :, held], plain["z", layer][:, :, held])
        assert not torch.allclose(found["z", layer][:, :, 1], plain["z", layer][:, :, 1], atol=1e-3)
    assert not torch.allclose(found["mlp_out", 2], plain["mlp_out", 2], atol=1e-3)
    pattern = [edits[0], ll.edit("pattern.2", "freeze")]
    held = ll.record(model, IDS, "pattern.2", edits=pattern)["pattern.2"]
    assert torch.equal(held, plain["pattern.2"])


def test_edits_at_one_site_apply_in_their_order() -> None:
    model = tiny("gpt2")
    add, scale = ll.edit("resid_post.0", "add", 1), ll.edit("resid_post.0", "scale", 3)
    close(edited(model, add, scale), logits(model, IDS, ("resid_post", 0, lambda x: (x + 1) * 3)))
    close(edited(model, scale, add), logits(model, IDS, ("resid_post", 0, lambda x: x * 3 + 1)))
    late, early = ll.edit("mlp_out.2", "freeze"), ll.edit("resid_pre.1", "add", 1)
    assert torch.equal(edited(model, late, early), edited(model, early, late))


def test_a_site_is_recorded_after_its_edit() -> None:
    model = tiny("llama")
    edits = [ll.edit("pattern.1.2", "zero", position=3), ll.edit("z.1.0", "set", 2, position=1)]
    trace = ll.run(model, IDS, edits, sites=["pattern.1", "z.1", "attn_scores.1", "resid_post"])
    assert (trace["pattern.1"][0, 2, 3] == 0).all() and (trace["pattern.1"][0, 1, 3] > 0).any()
    assert (trace["z.1"][0, 1, 0] == 2).all() and (trace["z.1"][0, 3, 2] == 0).all()
    assert trace.edits == tuple(edits)


def test_another_model_gives_its_state() -> None:
    model, other = tiny("llama"), tiny("gpt2")
    edit = ll.edit("resid_post.1", "set", ll.source(OTHER, "resid_post.0", model=other))
    there = values(other, OTHER, "resid_post", 0)
    close(edited(model, edit), logits(model, IDS, ("resid_post", 1, lambda old: there[None])))


def test_rows_of_a_batch_are_edited_by_their_own_positions() -> None:
    model = tiny("llama")
    rows = [IDS, IDS[:3], OTHER[:5]]
    edits = [
        ll.edit("resid_post.0", "add", 1.0, position=-1),
        ll.edit("z.1", "freeze"),
        ll.edit("attn_scores.2", "block", position=-1, key=0),
        ll.edit("mlp_out.1", "set", ll.source(OTHER, position=0), position=[0, 1]),
    ]
    for side in ("right", "left"):
        tokens = model.tokens(rows, padding_side=side)
        found = ll.run(model, tokens, edits).logits
        for row, ids in enumerate(rows):
            close(found[row, tokens.mask[row]], edited(model, *edits, ids=ids)[0])


def test_top_and_probability_are_the_softmax_of_the_logits() -> None:
    model = tiny("gpt2")
    trace = ll.run(model, IDS, ll.edit("mlp_out.0", "zero"))
    expected = trace.logits[0, 2].softmax(-1)
    top = trace.top(3, position=2)
    assert [index for index, _, _ in top] == expected.topk(3).indices.tolist()
    assert top[0][1] == f"[{top[0][0]}]" and top[0][2] == pytest.approx(expected.max().item())
    assert trace.probability(17, 2) == pytest.approx(expected[17].item())
    last = ll.run(model, IDS, logits="last")
    assert last.top(1)[0][2] == pytest.approx(logits(model, IDS)[0, -1].softmax(-1).max().item())
    for wrong in ({"position": 0}, {"k": 0}, {"position": slice(0, 2)}):
        with pytest.raises(ll.InputError):
            last.top(**wrong)
    with pytest.raises(ll.InputError, match="no logits"):
        ll.run(model, IDS, logits=None).top()


def test_other_runs_are_made_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    ll.run(model, IDS, ll.edit("z", "resample", OTHER, layer=range(3)))  # widths are known now
    calls: list[int] = []
    handle = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
    edits = [
        ll.edit("z", "resample", OTHER, layer=range(3)),
        ll.edit("mlp_out.1", "set", ll.source(OTHER, "mlp_out.2")),
        ll.edit("resid_post.0", "freeze"),
        ll.edit("attn_scores.1", "block", position=-1, key=0),
    ]
    ll.run(model, IDS, edits)
    handle.remove()
    assert len(calls) == 3  # the other text, this text unedited, and the edited run
