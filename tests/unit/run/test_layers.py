"""Sequences of blocks against models whose list of blocks was really rearranged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerlens as ll
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.run.block_rows import RowCalls
from layerlens.run.generate_layers import generate_layers
from layerlens.run.layers import run_layers, show_order
from layerlens.run.replay import capture_calls, replay
from layerlens.run.sequences import PathStates

from .families import tiny

IDS = [11, 42, 7, 63, 5, 80]
OTHER = [9, 30, 71, 2, 55, 14]
FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "opt"]
ORDERS = [[0, 2], [0, 1, 1, 2], [2, 1, 0], [1, 1, 1, 0], [0, 1, 2, 2]]


def logits(model: LensModel, ids: Sequence[int] = IDS) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.hf(torch.tensor([ids]), use_cache=False).logits
        return found


def rearranged(hf: Any, order: Sequence[int], ids: Sequence[int] = IDS) -> Tensor:
    """Logits of a copy of the model whose list of blocks was exchanged."""
    hf = copy.deepcopy(hf)
    for parent in hf.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList):
                setattr(parent, name, nn.ModuleList([child[i] for i in order]))
                break
    types = getattr(hf.config, "layer_types", None)
    if types:
        hf.config.layer_types = [types[i] for i in order]
    hf.config.num_hidden_layers = len(order)
    with torch.inference_mode():
        found: Tensor = hf(torch.tensor([ids]), use_cache=False).logits
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_in_order_are_the_model_to_the_last_bit(family: str) -> None:
    model = tiny(family)
    assert torch.equal(run_layers(model, IDS).logits, logits(model))
    assert torch.equal(run_layers(model, IDS, range(3)).logits, logits(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_equals_a_rearranged_model(family: str, order: list[int]) -> None:
    model = tiny(family)
    found = run_layers(model, IDS, order)
    torch.testing.assert_close(found.logits, rearranged(model.hf, order), atol=1e-5, rtol=1e-5)
    assert found.order == tuple(order)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_unembeds_the_first_state(family: str) -> None:
    model = tiny(family)
    first = ll.record(model, IDS, "resid_pre.0")["resid_pre", 0]
    with torch.inference_mode():
        assert torch.equal(run_layers(model, IDS, ()).logits, model.unembed(first))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_restart_anywhere_gives_what_the_model_gives(family: str) -> None:
    model = tiny(family)
    trace = ll.record(model, IDS, ["resid_pre", "resid_post"])
    for start in range(4):
        assert torch.equal(run_layers(model, IDS, start=start).logits, logits(model))
    given = run_layers(model, IDS, start=2, state=trace["resid_post", 1])
    assert torch.equal(given.logits, logits(model))
    assert torch.equal(
        run_layers(model, IDS, start=1, state=trace["resid_pre", 1][0]).final, given.final
    )
    assert torch.equal(run_layers(model, IDS, [1, 2], start=1).logits, logits(model))


def test_a_state_of_another_prompt_is_the_other_prompt() -> None:
    model = tiny("llama")
    other = ll.record(model, OTHER, "resid_pre.1")["resid_pre", 1]
    assert torch.equal(run_layers(model, IDS, start=1, state=other).logits, logits(model, OTHER))
    changed = run_layers(model, IDS, [2], state=other.double())
    assert changed.final.dtype == torch.float32 and changed.order == (2,)


def test_a_state_of_another_model_goes_through_this_ones_blocks() -> None:
    here, there = tiny("llama"), LensModel.wrap(tiny_model("gpt2"), None, prove=False)
    state = ll.record(there, IDS, "resid_post.1")["resid_post", 1]
    found = run_layers(here, IDS, start=2, state=state)

    def graft(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (state, *args[1:])

    hook = here.hf.model.layers[2].register_forward_pre_hook(graft)
    expected = logits(here)
    hook.remove()
    torch.testing.assert_close(found.logits, expected, atol=1e-6, rtol=1e-6)


def test_a_block_of_zero_weights_may_be_left_out_or_repeated() -> None:
    model = LensModel.wrap(tiny_model("llama"), None, prove=False)
    with torch.no_grad():
        model.hf.model.layers[1].self_attn.o_proj.weight.zero_()
        model.hf.model.layers[1].mlp.down_proj.weight.zero_()
    plain = logits(model)
    for order in ([0, 2], [0, 1, 1, 2], [1, 0, 1, 2, 1]):
        assert torch.equal(run_layers(model, IDS, order).logits, plain)


def test_texts_of_different_lengths_run_side_by_side() -> None:
    for family in ("llama", "gpt2"):
        model = tiny(family)
        found = run_layers(model, [IDS, IDS[:3]], [0, 2, 1])
        for row, ids in enumerate((IDS, IDS[:3])):
            expected = run_layers(model, ids, [0, 2, 1]).logits[0]
            part = found.logits[row, : len(ids)]
            torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)
        tops = found.top(2)
        alone = [run_layers(model, ids, [0, 2, 1]).top(2) for ids in (IDS, IDS[:3])]
        assert [[name for name, _ in row] for row in tops] == [
            [name for name, _ in row] for row in alone
        ]


def test_states_are_kept_when_asked_for() -> None:
    model = tiny("gpt_neox")
    found = run_layers(model, IDS, [0, 1, 1], keep=True)
    assert found.states.shape == (3, 1, 6, 32)
    assert torch.equal(found.states[-1], found.final)
    trace = ll.record(model, IDS, "resid_post")
    assert torch.equal(found.states[:2], trace["resid_post"][:2])
    assert run_layers(model, IDS, (), keep=True).states.shape == (0, 1, 6, 32)
    with pytest.raises(InputError, match="keep=True"):
        _ = run_layers(model, IDS, [0]).states


def test_the_most_probable_tokens_and_the_text_of_it() -> None:
    model = tiny("llama")
    found = run_layers(model, IDS, [0, 2, 2])
    expected = found.logits[0, 2].softmax(-1).topk(3)
    got = found.top(3, 2)
    assert [p for _, p in got] == pytest.approx(expected.values.tolist(), abs=1e-6)
    assert repr(found).startswith("Layers(0, 2, 2: 3 steps, skipped 1, repeated 2; 1 x 6 tokens")
    assert show_order([0, 1, 2, 4, 4, 5]) == "0-2, 4, 4-5"
    assert show_order([]) == "no block"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": [3]}, "3 in order is no layer: the model has 3; expected whole numbers from 0"),
        ({"order": [-1]}, "-1 in order is no layer"),
        ({"order": [0.5]}, "0.5 in order"),
        ({"order": [True]}, "True in order"),
        ({"order": 1.5}, "1.5 in order"),
        ({"start": 4}, "4 in start is no layer: .* 0 to 3"),
        ({"state": torch.zeros(6, 31)}, r"shape \[6, 31\]; expected \[6, 32\]"),
        ({"state": torch.zeros(5, 32)}, r"expected \[6, 32\] or \[1, 6, 32\]"),
        ({"state": torch.zeros(2, 6, 32)}, "state holds 2 texts; expected 1"),
        ({"state": torch.zeros(6, 32, dtype=torch.int64)}, "not a floating tensor"),
        ({"state": [[0.0]]}, "not a floating tensor"),
        ({"state": torch.full((6, 32), float("nan"))}, "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_layers(tiny("llama"), IDS, **options)


def test_an_empty_text_and_a_wrong_position_are_said() -> None:
    with pytest.raises(InputError, match="text is empty"):
        run_layers(tiny("llama"), [])
    found = run_layers(tiny("llama"), IDS)
    with pytest.raises(InputError, match="Position 6 does not exist"):
        found.top(1, 6)
    with pytest.raises(InputError, match="names 2 positions"):
        found.top(1, [0, 1])
    with pytest.raises(InputError, match="k is 0"):
        found.top(0)


def test_no_hook_stays_and_an_error_ends_the_pass() -> None:
    model = tiny("llama")
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]

    def fail(layer: int, state: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        capture_calls(model, model.tokens(IDS), fail)
    run_layers(model, IDS, [0])
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    assert before == after


# ---- many rows of one text ---------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "bloom", "falcon", "mamba", "gemma4_text"])
def test_many_rows_give_what_each_gives_alone(family: str) -> None:
    model = LensModel.wrap(tiny_model(family), None, prove=False)
    states: list[Tensor] = []
    rows = RowCalls(model, model.tokens(IDS), lambda _, state: states.append(state))
    assert len(states) == 4
    assert (rows.at_once == 1) == (family == "gemma4_text")  # its blocks hand things on in a dict
    several = torch.cat([states[1], states[0], states[2]])
    with model.running():
        found = rows(1, several)
        for row in range(3):
            alone = rows.calls[1](several[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    both = RowCalls(model, model.tokens([IDS, IDS[::-1]]))
    copies = torch.cat([states[0], states[1], states[2], states[0]])
    with model.running():
        found = both(1, copies)
        for first in (0, 2):
            alone = both.calls[1](copies[first : first + 2])
            torch.testing.assert_close(found[first : first + 2], alone, atol=1e-5, rtol=1e-5)


def test_paths_that_begin_alike_are_run_once_there() -> None:
    model = tiny("llama")
    first: list[Tensor] = []
    calls, _ = capture_calls(model, model.tokens(IDS), lambda _, state: first.append(state))
    paths: list[tuple[int, ...]] = [(0, 1, 2), (0, 1, 1), (0, 1), (2,), ()]
    with model.running():
        plain = [replay(model, calls, first[0], path) for path in paths]
        for room, blocks in ((10**9, 5), (0, 9), (2 * first[0].nbytes, None)):
            states = PathStates(calls, first[0], room)
            for path, expected in zip(paths, plain, strict=True):
                assert torch.equal(states.after(path), expected)
            assert blocks is None or states.blocks_run == blocks


# ---- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "bloom", "mamba"])
@pytest.mark.parametrize("order", [[0, 1, 2], *ORDERS])
def test_cached_generation_along_a_path_is_the_uncached_one(family: str, order: list[int]) -> None:
    model = LensModel.wrap(tiny_model(family, eos_token_id=None), None, prove=False)
    found = generate_layers(model, IDS, order, 5)
    assert found.error < 5e-6
    ids = list(IDS)
    for number in range(5):
        last = run_layers(model, ids, order).logits[0, -1]
        torch.testing.assert_close(found.logits[number], last, atol=1e-5, rtol=1e-4)
        ids.append(int(last.argmax()))
    assert list(found.ids) == ids[len(IDS) :]


def test_generation_leaves_the_model_as_it_was() -> None:
    model = tiny("llama")
    layers, plain = list(model.hf.model.layers), logits(model)
    config = model.hf.config.to_dict()
    generate_layers(model, IDS, [0, 1, 1, 2], 3)
    assert [a is b for a, b in zip(layers, model.hf.model.layers, strict=True)] == [True] * 3
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2]
    assert model.hf.config.to_dict() == config
    assert torch.equal(logits(model), plain)


def test_the_models_own_order_writes_what_the_model_writes() -> None:
    model = tiny("gpt2")
    with torch.inference_mode():
        expected = model.hf.generate(
            torch.tensor([IDS]), max_new_tokens=4, do_sample=False, pad_token_id=0
        )
    assert list(generate_layers(model, IDS, range(3), 4).ids) == expected[0, len(IDS) :].tolist()


@pytest.mark.parametrize("family", ["rwkv", "gemma4_text"])
def test_a_family_whose_cache_cannot_follow_is_refused_by_its_numbers(family: str) -> None:
    model = LensModel.wrap(tiny_model(family, eos_token_id=None), None, prove=False)
    assert generate_layers(model, IDS, [0, 1, 2], 3).error < 1e-5
    with pytest.raises(ModelError, match=f"{family}.*cannot generate along the path 0-1, 1-2"):
        generate_layers(model, IDS, [0, 1, 1, 2], 3)


@pytest.mark.parametrize(
    ("text", "order", "most", "message"),
    [
        (IDS, [], 3, "order names no block"),
        (IDS, [3], 3, "3 in order"),
        ([IDS, IDS], [0], 3, "2 texts were given"),
        (IDS, [0], 0, "max_new_tokens is 0; expected 1 to"),
        (IDS, [0], 1000, "max_new_tokens is 1000"),
    ],
)
def test_what_cannot_be_generated_is_said(text: Any, order: Any, most: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate_layers(tiny("llama"), text, order, most)
