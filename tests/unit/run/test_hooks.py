"""Changing values while a model runs: what is changed is what is added, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.patching.hand_patches import Bench, Patch, Place
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.many_edits import Method, run_cells

from .families import tiny

IDS = [11, 42, 7, 63, 5, 80, 29]

#: Families with what makes editing hard: parallel blocks, sandwich norms and soft-caps, norms on
#: the stream, scaled sublayers, a sublayer that is a sum of modules, a gain of the block, tensors
#: that are written into later, attention code of its own.
FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "opt", "granite", "granitemoeshared"]
FAMILIES += ["gemma4_text", "minimax", "falcon", "bloom", "gptj", "gpt_oss", "mixtral"]


def run(
    model: LensModel, changes: Sequence[Change] = (), sites: Sequence[Site] = ()
) -> tuple[Tensor, dict[Site, Tensor]]:
    values: dict[Site, Tensor] = {}

    def keep(site: Site, value: Tensor) -> None:
        values[site] = value.clone()

    logits = forward(model, model.tokens(IDS), sites, keep, logits="all", changes=changes)
    assert logits is not None
    return logits, values


def editable(model: LensModel) -> list[Site]:
    """All sites but what the scores are made of where the family's own code makes them."""
    spied = {
        Site(kind, layer)
        for layer, block in enumerate(model.anatomy.blocks)
        if block.attention == "spy"
        for kind in block.scored
    }
    return [site for site in model.anatomy.available() if site not in spied]


def off(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_setting_every_site_to_its_own_value_changes_nothing(family: str) -> None:
    model = tiny(family)
    sites = editable(model)
    plain, values = run(model, (), sites)
    whole = tuple(range(len(IDS)))
    for site in sites:
        value = values[site][0]
        value = value.transpose(0, 1) if site.kind in ("pattern", "attn_scores") else value
        changed, _ = run(model, [Change(site, "set", value, whole)])
        # The heads' outputs are computed by another kernel where the pattern is changed.
        exact = site.kind not in ("pattern", "attn_scores", "attn_out", "mlp_out", "resid_mid")
        assert off(changed, plain) <= (0 if exact else 1e-5), site


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_to_a_sublayer_arrives_in_the_stream(family: str) -> None:
    model = tiny(family)
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(2, model.d_model, generator=generator)
    for layer, block in enumerate(model.anatomy.blocks[:2]):
        kind = "mlp_out" if "mlp_out" in block.taps else "attn_out"
        if block.post_norm is not None:
            continue  # the sum itself is normed there
        after = [Site("resid_post", layer)]
        _, plain = run(model, (), after)
        _, changed = run(model, [Change(Site(kind, layer), "add", delta, (1, 4))], after)
        expected = plain[after[0]].clone()
        expected[0, [1, 4]] += delta * block.gain
        assert off(changed[after[0]], expected) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "granitemoeshared", "bloom"])
def test_the_state_between_sublayers_is_read_by_both(family: str) -> None:
    """Adding to ``resid_mid`` equals adding to what the attention gives, in a sequential block."""
    model = tiny(family)
    delta = torch.linspace(-2, 3, model.d_model)
    mid = Change(Site("resid_mid", 1), "add", delta, (2, 5))
    attn = Change(Site("attn_out", 1), "add", delta, (2, 5))
    sites = [Site("resid_mid", 1), Site("resid_post", 1)]
    plain, _ = run(model)
    one, seen = run(model, [mid], sites)
    two, other = run(model, [attn], sites)
    assert off(one, plain) > 1e-3
    assert off(one, two) < 1e-5
    assert all(off(seen[site], other[site]) < 1e-5 for site in sites)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_state_set_whole_decides_the_output(family: str) -> None:
    """The last block's output, set to that of another text, gives that text's logits."""
    model = tiny(family)
    site = Site("resid_post", model.n_layers - 1)
    other = model.tokens([id_ + 2 for id_ in IDS])
    values: dict[Site, Tensor] = {}
    expected = forward(model, other, [site], values.__setitem__, logits="all")
    changed, _ = run(model, [Change(site, "set", values[site][0], tuple(range(len(IDS))))])
    assert expected is not None
    assert off(changed, expected) < 1e-6


@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom", "falcon", "gptj"])
def test_blocked_edges_carry_nothing(family: str) -> None:
    """With all edges to other positions blocked, a position depends on its own token alone."""
    model = tiny(family)
    cuts = [
        Change(Site("attn_scores", layer), "block", None, (query,), keys=tuple(range(query)))
        for layer in range(model.n_layers)
        for query in range(1, len(IDS))
    ]
    pattern = Site("pattern", 1)
    cut, seen = run(model, cuts, [pattern])
    eye = torch.eye(len(IDS)).expand(seen[pattern].shape)
    assert torch.allclose(seen[pattern], eye, atol=1e-6)
    other = model.tokens([id_ if at == 4 else id_ + 2 for at, id_ in enumerate(IDS)])
    again = forward(model, other, [], lambda *_: None, logits="all", changes=cuts)
    assert again is not None
    assert off(again[0, 4], cut[0, 4]) < 1e-5


def test_a_zero_leaf_has_the_gradient_of_the_site() -> None:
    model = tiny("llama")
    leaves = {
        site: torch.zeros(shape, requires_grad=True)
        for site, shape in {
            Site("resid_mid", 1): (len(IDS), model.d_model),
            Site("z", 0): (len(IDS), model.n_heads, model.d_model // model.n_heads),
            Site("pattern", 1): (len(IDS), model.n_heads, len(IDS)),
        }.items()
    }
    changes = [Change(site, "add", leaf, tuple(range(len(IDS)))) for site, leaf in leaves.items()]
    logits = forward(model, model.tokens(IDS), [], lambda *_: None, changes=changes, gradients=True)
    assert logits is not None
    grads = torch.autograd.grad(logits[0, -1, 3], list(leaves.values()))
    step = 1e-2
    for change, grad in zip(changes, grads, strict=True):
        direction = grad / grad.norm()
        ends = []
        for sign in (1, -1):
            moved = Change(change.site, "add", sign * step * direction, change.positions)
            ends.append(run(model, [moved])[0][0, -1, 3])
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope.item() == pytest.approx(grad.norm().item(), rel=0.02)


def test_what_cannot_be_changed_is_named() -> None:
    # families move to the attention interface from release to release
    own = next(
        model
        for model in map(tiny, ("bloom", "falcon", "gptj"))
        if model.anatomy.blocks[0].attention == "spy"
    )
    with pytest.raises(SiteError, match="code of its own"):
        run(own, [Change(Site("q", 0), "scale", 0.0)])
    with pytest.raises(SiteError, match="edit z or attn_out"):
        run(tiny("llama"), [Change(Site("result", 0), "scale", 0.0)])
    with pytest.raises(SiteError, match="no state between"):
        run(tiny("gpt_neox"), [Change(Site("resid_mid", 0), "scale", 0.0)])


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "falcon", "bloom"])
def test_a_query_that_is_left_no_key_is_refused_by_the_run_itself(family: str) -> None:
    model = tiny(family)
    site, words = Site("attn_scores", 1), "attn_scores leaves a query no key"
    run(model, [Change(site, "block", positions=(3,), keys=(0, 1, 2))])
    for change in (
        Change(site, "block", positions=(3,), keys=(0, 1, 2, 3)),
        Change(Site("attn_scores", 1, 0), "add", -torch.inf, positions=(3,)),
    ):
        with pytest.raises(InputError, match=words):
            run(model, [change])
    cells = [Cell((Change(site, "block", positions=(3,), keys=(0, 1, 2, 3)),))]
    base = record_base(model, model.tokens(IDS))
    for method in METHODS[family]:
        with pytest.raises(InputError, match=words):
            run_cells(model, base, cells, lambda *_: None, method=method)


METHODS: dict[str, tuple[Method, ...]] = {
    "llama": ("packed", "restart", "naive"),
    "gpt_oss": ("packed", "restart", "naive"),
    "falcon": ("restart", "naive"),
    "bloom": ("restart", "naive"),
}


@pytest.mark.parametrize(
    ("family", "kind"), [("falcon", "rot_q"), ("falcon", "rot_k"), ("bloom", "q"), ("bloom", "k")]
)
def test_what_code_of_its_own_makes_scores_of_is_refused_everywhere(family: str, kind: str) -> None:
    model, other = tiny(family), [*IDS[:3], 64, *IDS[4:]]
    words = "attention of this family is code of its own"
    here = Place(1, 3)
    bench = Bench(model, model.tokens(IDS), model.tokens(other))
    edit = ll.edit(f"{kind}.1", "scale", 2.0)

    def edited() -> None:
        with model.edited(edit):
            model.hf(torch.tensor([IDS]))

    calls: list[Callable[[], Any]] = [
        lambda: ll.run(model, IDS, edit),
        lambda: model.generate(IDS, max_new_tokens=2, edits=edit),
        edited,
        lambda: ll.logit_lens(model, IDS, edits=edit),
        lambda: ll.patch_sweep(model, IDS, other, site=kind),
        lambda: ll.attribution_patch(model, IDS, other, site=kind),
        lambda: bench.after([Patch(kind, here, here)]),
        lambda: run(model, [Change(Site(kind, 1), "scale", 2.0)]),
    ]
    if kind in "qk":
        calls.append(lambda: ll.path_patch(model, IDS, other, receiver=(1, 0, kind)))
    for call in calls:
        with pytest.raises(SiteError, match=words):
            call()
