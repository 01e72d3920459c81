"""Every way of running many edited runs, against one full pass a cell with a plain hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.errors import Cancelled, InputError, MemoryLimitError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.run import packed, packed_groups
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.many_edits import Method, run_cells, sweep_method
from layerlens.run.packed import doubling, soonest, waves
from layerlens.run.packed_groups import Stack, grouped
from layerlens.run.together import record_bases

from .families import METHODS, tiny

CLEAN = [11, 42, 7, 63, 5, 80, 29, 33, 16]
DIFFERING = {"first": [0], "middle": [4], "last": [8], "several": [2, 3, 6]}
KINDS = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post"}
KINDS |= {"z", "q", "k", "v", "attn_scores", "pattern"}


def corrupted(differing: Sequence[int]) -> list[int]:
    return [id_ + 3 if at in differing else id_ for at, id_ in enumerate(CLEAN)]


def finals(model: LensModel, base: Base, cells: Sequence[Cell], method: Method) -> Tensor:
    found = torch.full((len(cells), model.d_model), float("nan"))

    def keep(indices: Sequence[int], final: Tensor) -> None:
        found[list(indices)] = final.float()

    assert run_cells(model, base, cells, keep, method=method) == method
    return found


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def plain(model: LensModel, ids: Sequence[int], layer: int, position: int, value: Tensor) -> Tensor:
    """The last state of a run whose block ``layer`` is given another state at one position."""

    def patch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next((n for n in ("hidden_states", "x") if n in kwargs), None)
        state = (kwargs[name] if name else args[0]).clone()
        state[0, position] = value
        return (args, {**kwargs, name: state}) if name else ((state, *args[1:]), kwargs)

    kept: list[Tensor] = []
    blocks = [model.hf.get_submodule(block.path) for block in model.anatomy.blocks]
    hooks = [
        blocks[layer].register_forward_pre_hook(patch, with_kwargs=True),
        blocks[-1].register_forward_hook(
            lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
        ),
    ]
    with torch.inference_mode():
        model.hf(torch.tensor([list(ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return kept[0][0, -1]


@pytest.mark.parametrize("differing", DIFFERING)
@pytest.mark.parametrize("family", METHODS)
def test_a_grid_equals_plain_hooks(family: str, differing: str) -> None:
    model = tiny(family)
    ids = corrupted(DIFFERING[differing])
    clean = record_base(model, model.tokens(CLEAN))
    base = record_base(model, model.tokens(ids))
    places = [(layer, at) for layer in range(model.n_layers) for at in range(len(ids))]
    values = [clean.state(layer)[[at]] for layer, at in places]
    cells = [
        Cell((Change(Site("resid_pre", layer), "set", value, (at,)),))
        for (layer, at), value in zip(places, values, strict=True)
    ]
    expected = torch.stack(
        [plain(model, ids, *place, value[0]) for place, value in zip(places, values, strict=True)]
    )
    for method in dict.fromkeys([METHODS[family], "restart", "naive"]):
        assert error(finals(model, base, cells, method), expected) < 1e-5, method


@pytest.mark.parametrize("family", METHODS)
def test_the_method_is_found_by_trying(family: str) -> None:
    assert sweep_method(tiny(family)) == METHODS[family]


@pytest.mark.parametrize("family", METHODS)
def test_every_site_agrees_with_the_naive_run(family: str) -> None:
    model = tiny(family)
    spied = {layer for layer, b in enumerate(model.anatomy.blocks) if b.attention == "spy"}
    sites = [
        site
        for site in model.anatomy.available()
        if site.kind in KINDS and not (site.kind in "qk" and site.layer in spied)
    ]
    clean = record_base(model, model.tokens(CLEAN), sites)
    base = record_base(model, model.tokens(corrupted([1, 4])))
    cells = []
    for site in sites:
        value = clean.trace[site][0]
        value = value.transpose(0, 1) if site.kind in ("pattern", "attn_scores") else value
        cells += [
            Cell((Change(site, "set", value[list(positions)], positions),))
            for positions in ((1,), (4, 6), (8,))
        ]
    expected = finals(model, base, cells, "naive")
    assert (expected - base.final).abs().amax(1).count_nonzero() > len(cells) / 3
    for method in dict.fromkeys([METHODS[family], "restart"]):
        assert error(finals(model, base, cells, method), expected) < 1e-5, method


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "bloom"])
def test_several_edits_a_cell_in_their_order(family: str) -> None:
    model = tiny(family)
    base = record_base(model, model.tokens(CLEAN))
    slope = torch.linspace(-3, 5, model.d_model)
    add = Change(Site("attn_out", 1), "add", slope, (2, 8))
    scale = Change(Site("attn_out", 1), "scale", -2.0, (8,))
    head = Change(Site("z", 2, 1), "scale", 0.0, (3, 8))
    block = Change(Site("attn_scores", 0), "block", None, (4, 5), keys=(1, 2))
    cells = [
        Cell((add, scale)),
        Cell((scale, add)),
        Cell((head, block)),
        Cell((block, add, head, scale)),
    ]
    expected = finals(model, base, cells, "naive")
    assert error(expected[0], expected[1]) > 1e-3
    for method in dict.fromkeys([METHODS[family], "restart"]):
        assert error(finals(model, base, cells, method), expected) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "zamba2"])
def test_a_base_that_is_edited_itself(family: str) -> None:
    model = tiny(family)
    kept = (
        Change(Site("embed"), "add", 0.3, (1,)),
        Change(Site("resid_post", 1), "scale", 0.5, None),
    )
    base = record_base(model, model.tokens(CLEAN), changes=kept)
    clean = record_base(model, model.tokens(CLEAN))
    cells = [
        Cell((Change(Site("resid_post", layer), "set", clean.state(layer + 1)[[at]], (at,)),))
        for layer in range(model.n_layers)
        for at in (1, 8)
    ]
    expected = finals(model, base, cells, "naive")
    assert error(finals(model, base, cells, sweep_method(model)), expected) < 1e-5


@pytest.mark.parametrize("family", METHODS)
def test_naive_cells_that_share_a_pass_are_as_if_alone(family: str) -> None:
    model = tiny(family)
    clean = record_base(model, model.tokens(CLEAN))
    kept = (Change(Site("resid_post", 0), "scale", 0.5, None),)
    base = record_base(model, model.tokens(corrupted([1, 4])), changes=kept)
    cells = [
        Cell((*one.changes, Change(Site("attn_out", 1), "scale", 0.1 * number, (7, 8))))
        for number, one in enumerate(resid_cells(model, clean)[4:11])
    ]
    alone = finals(model, base, cells, "naive")
    found = torch.full_like(alone, float("nan"))
    passes: list[int] = []
    hook = model.hf.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )

    def keep(indices: Sequence[int], final: Tensor) -> None:
        found[list(indices)] = final.float()

    run_cells(model, base, cells, keep, method="naive", at_once=3)
    hook.remove()
    assert passes == [3, 3, 1]
    assert error(found, alone) < 1e-5


def test_what_is_measured_at_an_earlier_position_is_not_packed() -> None:
    model = tiny("llama")
    base = record_base(model, model.tokens(CLEAN), asked=3)
    cells = [Cell((Change(Site("mlp_out", 1), "scale", times, (3,)),)) for times in (1.0, 0.5)]
    found = torch.zeros(len(cells), model.d_model)

    def keep(indices: Sequence[int], final: Tensor) -> None:
        found[list(indices)] = final.float()

    assert run_cells(model, base, cells, keep) == "naive"
    assert error(found[0], base.final) < 1e-6
    assert error(found[1], base.final) > 1e-3


def test_setting_what_is_there_changes_nothing() -> None:
    model = tiny("llama")
    base = record_base(model, model.tokens(CLEAN), [Site("z", 1)])
    z = base.trace[Site("z", 1)][0]
    cells = [Cell((Change(Site("z", 1), "set", z, tuple(range(len(CLEAN)))),))]
    assert torch.equal(finals(model, base, cells, "naive")[0], base.final)
    assert error(finals(model, base, cells, "packed")[0], base.final) < 1e-6


def test_waves_keep_to_the_memory_and_to_the_order() -> None:
    model = tiny("llama")
    base = record_base(model, model.tokens(CLEAN))
    cells = [
        Cell((Change(Site("resid_pre", layer), "add", 1.0, (at,)),))
        for layer in range(model.n_layers)
        for at in range(len(CLEAN))
    ]
    few = list(waves(model, base, cells, 200_000))
    assert len(few) > 1
    assert [index for wave in few for index in wave] == list(range(len(cells)))
    early = soonest(model, base, cells)
    whole = finals(model, base, cells, "packed")
    seen: list[list[int]] = []
    found = torch.zeros_like(whole)

    def keep(indices: Sequence[int], final: Tensor) -> None:
        seen.append(sorted(indices))
        found[list(indices)] = final

    run_cells(model, base, cells, keep, method="packed", memory_limit=200_000)
    assert len(seen) > 2 and seen[0] == early
    late = [index for wave in seen[1:] for index in wave]
    assert late == [index for index in range(len(cells)) if index not in early]
    assert error(found, whole) < 1e-6
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        run_cells(model, base, cells, keep, method="packed", memory_limit=1_000)


def test_ordered_cells_come_in_their_order_first_few_then_twice_as_many() -> None:
    model = tiny("llama")
    base = record_base(model, model.tokens(CLEAN))
    cells = resid_cells(model, base) * 6
    cells = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]
    whole = finals(model, base, cells, "packed")
    found = torch.zeros_like(whole)
    seen: list[list[int]] = []

    def keep(indices: Sequence[int], final: Tensor) -> None:
        seen.append(list(indices))
        found[list(indices)] = final

    run_cells(model, base, cells, keep, method="packed", ordered=True)
    assert [sorted(group) for group in seen] == doubling(model, base, cells)
    assert [i for group in seen for i in sorted(group)] == list(range(len(cells)))
    assert error(found, whole) < 1e-6
    work = [
        sum((model.n_layers - cells[i].layer) * (base.length - cells[i].position) for i in group)
        for group in seen
    ]
    one_pass = model.n_layers * base.length
    assert len(work) > 3
    for number, own in enumerate(work[:-1]):
        assert 2**number * one_pass <= own < (2**number + 1) * one_pass


def resid_cells(model: LensModel, clean: Base) -> list[Cell]:
    return [
        Cell((Change(Site("resid_pre", layer), "set", clean.state(layer)[[at]], (at,)),))
        for layer in range(model.n_layers)
        for at in range(len(CLEAN))
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_rows_go_through_a_block_in_parts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    clean = record_base(model, model.tokens(CLEAN), [Site("z", 1)])
    base = record_base(model, model.tokens(corrupted([1, 4])))
    head = Change(Site("z", 1, 0), "set", clean.trace[Site("z", 1)][0][2:, 0], tuple(range(2, 9)))
    cells = [*resid_cells(model, clean), Cell((head,))]
    whole = finals(model, base, cells, "packed")
    monkeypatch.setattr(packed, "ROWS", 20)
    monkeypatch.setattr(packed_groups, "FILLED", 20)
    calls: list[int] = []
    block = model.hf.get_submodule(model.anatomy.blocks[1].path)
    hook = block.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[1]))
    found = finals(model, base, cells, "packed")
    hook.remove()
    assert len(calls) > 3 and max(calls) <= 20
    assert error(found, whole) < 1e-5


def test_cells_of_a_group_are_filled_up_to_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    stacks = [
        Stack(2, [7], torch.empty(1, 2, 1)),
        Stack(3, [4, 9], torch.empty(2, 1, 1)),
        Stack(1, [5], torch.empty(1, 3, 1)),
    ]
    (group,) = grouped(stacks[:2], 4, device)
    own = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1)  # one head of width 1
    base = torch.tensor([-1.0, -2.0, -3.0, -4.0]).view(4, 1, 1)
    assert group.keys(base, own).flatten(1).tolist() == [
        [-1, -2, 1, 2],
        [-1, -2, -3, 3],
        [-1, -2, -3, 4],
    ]
    queries = group.queries(own)
    assert queries.flatten(1).tolist() == [[1, 2], [0, 3], [0, 4]]
    assert group.taken(queries.transpose(1, 2)).flatten().tolist() == [1, 2, 3, 4]
    assert group.places == {7: 0, 4: 1, 9: 2}
    monkeypatch.setattr(packed_groups, "FILLED", 12)
    assert [(each.cells, each.first) for each in grouped(stacks, 4, device)] == [(3, 2), (1, 1)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gpt_oss"])
def test_the_last_block_works_on_last_rows(family: str) -> None:
    model = tiny(family)
    clean = record_base(model, model.tokens(CLEAN))
    base = record_base(model, model.tokens(corrupted([1, 4])))
    cells = resid_cells(model, clean)
    after: list[int] = []
    projection = model.hf.get_submodule(model.anatomy.tap(Site("z", model.n_layers - 1)).module)
    hook = projection.register_forward_hook(lambda module, args, out: after.append(out[0].numel()))
    found = finals(model, base, cells, "packed")
    hook.remove()
    assert sum(after) == len(cells) * model.d_model
    assert error(found, finals(model, base, cells, "naive")) < 1e-5


def test_cells_near_the_end_come_first_for_less_than_a_pass() -> None:
    model = tiny("llama")
    base = record_base(model, model.tokens(CLEAN))
    cells = resid_cells(model, base) * 3
    seen: list[list[int]] = []
    rows: list[int] = []
    blocks = [model.hf.get_submodule(block.path) for block in model.anatomy.blocks]
    hooks = [
        block.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
        for block in blocks
    ]

    def keep(indices: Sequence[int], final: Tensor) -> None:
        seen.append(sorted(indices))
        if len(seen) == 1:
            assert sum(rows) <= model.n_layers * len(CLEAN) + len(indices)

    run_cells(model, base, cells, keep, method="packed")
    for hook in hooks:
        hook.remove()
    first, rest = seen
    assert first and min(cells[i].layer for i in first) >= max(cells[i].layer for i in rest)
    assert sorted(first + rest) == list(range(len(cells)))
    few = resid_cells(model, base)[-len(CLEAN) :]
    assert not soonest(model, base, few)


@pytest.mark.parametrize("method", ["packed", "restart", "naive"])
def test_stopping_leaves_the_model_as_it_was(method: Method) -> None:
    model = tiny("gpt2")
    base = record_base(model, model.tokens(CLEAN))
    cells = [Cell((Change(Site("z", 0), "scale", 0.0, (at,)),)) for at in range(4)]
    calls = iter(range(100))

    def tick() -> None:
        if next(calls) == 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        run_cells(model, base, cells, lambda i, f: None, method=method, tick=tick)
    again = record_base(model, model.tokens(CLEAN))
    assert torch.equal(again.final, base.final)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_bad_input_is_named() -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match="one text"):
        record_base(model, model.tokens([CLEAN, CLEAN]))
    base = record_base(model, model.tokens(CLEAN))
    cells = [Cell((Change(Site("result", 0), "scale", 0.0, (1,)),))]
    with pytest.raises(SiteError, match="edit z or attn_out"):
        run_cells(model, base, cells, lambda i, f: None, method="packed")
    with pytest.raises(InputError, match="method"):
        run_cells(model, base, cells, lambda i, f: None, method="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", METHODS)
def test_texts_run_together_are_as_if_alone(family: str) -> None:
    model = tiny(family)
    texts = [model.tokens(CLEAN), model.tokens(corrupted([2, 5]))]
    sites = [site for site in model.anatomy.available() if site.kind in ("mlp_out", "z")]
    together = record_bases(model, texts, sites)
    for base, text in zip(together, texts, strict=True):
        alone = record_base(model, text, sites)
        assert base.tokens is text
        assert base.trace.sites == alone.trace.sites
        for site in alone.trace.sites:
            assert base.trace[site].shape == alone.trace[site].shape
            assert error(base.trace[site], alone.trace[site]) < 1e-5
        assert error(base.logits[None], alone.logits[None]) < 1e-5
        for mine, its in zip(base.calls, alone.calls, strict=True):
            assert_same_arguments([*mine.args, mine.kwargs], [*its.args, its.kwargs])


def assert_same_arguments(mine: Any, its: Any) -> None:
    assert type(mine) is type(its)
    if isinstance(mine, Tensor):
        assert mine.shape == its.shape and torch.allclose(mine, its)
    elif isinstance(mine, dict):
        assert mine.keys() == its.keys()
        assert_same_arguments(list(mine.values()), list(its.values()))
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(its)
        for one, other in zip(mine, its, strict=True):
            assert_same_arguments(one, other)


def test_two_texts_share_one_pass() -> None:
    model = tiny("llama")
    passes: list[int] = []
    hook = model.hf.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    record_bases(model, [model.tokens(CLEAN), model.tokens(corrupted([2]))])
    record_bases(model, [model.tokens(CLEAN), model.tokens(CLEAN[1:])])
    hook.remove()
    assert passes == [2, 1, 1]
