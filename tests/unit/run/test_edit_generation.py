"""Edits while text is generated, against a loop without cache; edits in a user's own calls."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.model.conventions import is_cache
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .plain import FAMILIES, IDS, OTHER, PLACES, logits, tiny

NEW = 6
SHOWN = {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}
VECTOR = torch.linspace(-1, 1, 32).roll(5)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def step_logits(model: LensModel, edits: Any, **options: Any) -> tuple[list[int], Tensor]:
    """New ids and the logits that each was chosen by."""
    found = model.generate(IDS, NEW, edits, **SHOWN, **options)
    return found.new_ids, torch.stack(found.raw.logits)[:, 0]


def plain_loop(model: LensModel, kind: str, alter: Any, new: int = NEW) -> tuple[list[int], Tensor]:
    """Greedy generation with hooks, the whole text run again for every token.

    ``alter`` is given the columns of the text so far and the value ``[1, position, width]``.
    """
    ids, rows = list(IDS), []
    for _ in range(new):
        rows.append(logits(model, ids, (kind, 1, alter))[0, -1])
        ids.append(int(rows[-1].argmax()))
    return ids[len(IDS) :], torch.stack(rows)


def adds_at(wanted: Any) -> Any:
    def alter(value: Tensor) -> Tensor:
        for column in range(value.shape[1]):
            if wanted(column):
                value[:, column] += VECTOR
        return value

    return alter


WHEN = [
    ({}, lambda column: column < 6, (0, 1, 2, 3, 4, 5)),
    ({"position": -1}, lambda column: column == 5, (5,)),
    ({"steps": [0, 2]}, lambda column: column in (6, 8), (6, 8)),
    ({"steps": "all"}, lambda column: column >= 6, (6, 7, 8, 9, 10)),
    ({"position": 1, "steps": 1}, lambda column: column in (1, 7), (1, 7)),
    ({"always": True}, lambda column: True, tuple(range(11))),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("when", "wanted", "columns"), WHEN, ids=[str(case[0]) for case in WHEN])
def test_steering_is_that_of_a_loop_without_cache(
    family: str, when: dict[str, Any], wanted: Any, columns: tuple[int, ...]
) -> None:
    model = tiny(family)
    edit = ll.edit("resid_post.1", "add", VECTOR, **when)
    ids, expected = plain_loop(model, "resid_post", adds_at(wanted))
    for cache in (True, False):
        found, steps = step_logits(model, edit, use_cache=cache)
        assert found == ids
        close(steps, expected)
    assert model.generate(IDS, NEW, edit, eos_token_id=None).applied == (columns,)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "v" in PLACES[family]])
@pytest.mark.parametrize(
    ("when", "wanted"),
    [({"position": [1, 4]}, (1, 4)), ({"steps": [0, 2]}, (6, 8)), ({"always": True}, range(20))],
    ids=str,
)
def test_values_stay_edited_in_the_cache(family: str, when: dict[str, Any], wanted: Any) -> None:
    """Attention reads keys and values of earlier tokens again at every step."""
    model = tiny(family)

    def alter(value: Tensor) -> Tensor:
        value[:, [column for column in wanted if column < value.shape[1]]] *= -2
        return value

    ids, expected = plain_loop(model, "v", alter)
    for cache in (True, False):
        found, steps = step_logits(model, ll.edit("v.1", "scale", -2, **when), use_cache=cache)
        assert found == ids
        close(steps, expected)


EVERYWHERE = [
    ll.edit("k.0", "scale", 0.5, position=[1, 5], steps=[0]),
    ll.edit("q.1.2", "zero", always=True),
    ll.edit("pattern.0", "scale", 0.5),
    ll.edit("pattern", "zero", layer=range(3), position=-1, key=[0, 3], steps="all"),
    ll.edit("attn_scores.0", "block", position=-1, key=[0, 1, 4], steps=[1, 2, 3]),
    ll.edit("attn_scores.1.3", "freeze"),
    ll.edit("pattern.0", "freeze", key=[0, 2, 4, 5]),
    ll.edit("v", "set", torch.arange(8.0), layer=0, head=[0, 1], position=1, steps=2),
    ll.edit("z.2", "resample", OTHER),
    ll.edit("resid_pre.1", "project_out", VECTOR, always=True),
    ll.edit("mlp_post.2", "mean", [OTHER], steps="all"),
    ll.edit("head_input", "add", VECTOR, position=-1, steps="all"),
    ll.edit("normalized", "set", ll.source(OTHER, position=2), steps=[3]),
    ll.edit("embed", "scale", 2, position=[0, 1], steps=[0]),
]


CACHED = [
    (family, edit)
    for family in ("gpt2", "llama", "gemma2", "mistral", "gpt_neox", "bloom")
    for edit in EVERYWHERE
    if not (family == "bloom" and edit.kind in ("q", "k"))  # they cannot be edited there
]


@pytest.mark.parametrize(
    ("family", "edit"), CACHED, ids=lambda value: getattr(value, "code", value)[:50]
)
def test_the_cache_changes_nothing(family: str, edit: ll.Edit) -> None:
    model = tiny(family)
    ids, steps = step_logits(model, edit)
    again, without = step_logits(model, edit, use_cache=False)
    assert ids == again
    close(steps, without)


@pytest.mark.parametrize("family", ["mamba", "rwkv", "jamba", "gpt_oss"])
def test_recurrent_and_mixed_families_are_counted_too(family: str) -> None:
    model = tiny(family)
    plain = step_logits(model, ())[1]
    for when in ({"position": [0, -1]}, {"steps": [1, 3]}, {"always": True}):
        edit = ll.edit("resid_post.1", "add", VECTOR, **when)
        (ids, steps), (again, without) = (
            step_logits(model, edit, use_cache=cache) for cache in (True, False)
        )
        assert ids == again and (steps - plain).abs().max() > 1e-4
        close(steps, without)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_edit_and_no_dose_change_nothing(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        plain = model.hf.generate(
            torch.tensor([IDS]), max_new_tokens=NEW, do_sample=False, pad_token_id=0, **SHOWN
        )
    expected = torch.stack(plain.logits)[:, 0]
    for edits in ((), ll.edit("resid_post.1", "add", 0 * VECTOR, always=True)):
        ids, steps = step_logits(model, edits)
        assert ids == plain.sequences[0, 6:].tolist()
        assert torch.equal(steps, expected)


def test_several_texts_are_padded_and_edited_each_on_its_own() -> None:
    model = tiny("llama")
    texts = [IDS, OTHER[:3], [7, 8, 9, 10]]
    edits = [
        ll.edit("resid_post.1", "add", VECTOR, position=0, steps="all"),
        ll.edit("v.0", "freeze", position=-1),
        ll.edit("attn_scores.2", "block", position=-1, key=0, steps=[1]),
    ]
    together = model.generate(texts, 5, edits, eos_token_id=None)
    for row, text in enumerate(texts):
        alone = model.generate(text, 5, edits, eos_token_id=None)
        assert together.new_ids[row] == alone.new_ids and together.ids[row] == alone.ids
        assert together.new_text[row] == alone.new_text


def test_beams_and_samples_share_the_edits_of_their_text() -> None:
    model = tiny("gpt2")
    edit = ll.edit("resid_post.1", "set", VECTOR, position=[0, 2], steps="all")
    options = {"num_beams": 3, "eos_token_id": None}
    with_cache = model.generate([IDS, OTHER], 4, edit, **options)
    without = model.generate([IDS, OTHER], 4, edit, use_cache=False, **options)
    assert with_cache.new_ids == without.new_ids
    several = model.generate(IDS, 3, edit, num_return_sequences=2, num_beams=2, eos_token_id=None)
    assert len(several.new) == 2 and not several.single
    assert [ids[:6] for ids in several.ids] == [IDS, IDS]


def test_a_generation_tells_prompt_and_new_text_apart() -> None:
    model = ll.load("toy:induction")
    found = model.generate([3, 4, 5, 3], 3)
    assert found.ids == [3, 4, 5, 3, *found.new_ids] and len(found.new_ids) <= 3
    assert found.text.endswith(found.new_text) and found.text.startswith(found.prompts[0])
    assert repr(found).startswith("Generation(")
    ended = tiny("gpt2").generate(IDS, 5, eos_token_id=model_answer())
    assert ended.new_ids == [model_answer()]


def model_answer() -> int:
    return int(logits(tiny("gpt2"), IDS)[0, -1].argmax())


def test_what_cannot_be_generated_is_refused() -> None:
    model = tiny("gpt2")
    with pytest.raises(ll.InputError, match=r"Generated token 4 is never fed back: .* 0 to 3"):
        model.generate(IDS, 5, ll.edit("z.1", "zero", steps=4))
    with pytest.raises(ll.InputError, match="takes at most 64"):
        model.generate(IDS, 60)
    with pytest.raises(ll.InputError, match="whole number from 1"):
        model.generate(IDS, 0)
    with pytest.raises(ll.InputError, match="name the keys of pattern"):
        model.generate(IDS, 5, ll.edit("pattern.1", "zero", steps="all"))
    with pytest.raises(ll.InputError, match=r"expected \[1, 32\]"):
        model.generate(IDS, 5, ll.edit("resid_post.1", "add", torch.ones(6, 32), always=True))
    with pytest.raises(ll.InputError, match="give the source one position"):
        model.generate(IDS, 5, ll.edit("resid_post.1", "resample", OTHER, steps=0))
    bare = LensModel.wrap(tiny_model("gpt2").transformer, None, prove=False)
    with pytest.raises(ll.ModelError, match="cannot generate"):
        bare.generate(IDS, 5)


def test_a_users_own_calls_are_edited() -> None:
    model = tiny("llama")
    edits = [ll.edit("resid_post.1", "add", VECTOR, position=-1), ll.edit("z.0.1", "zero")]
    plain, before = logits(model, IDS), hooks(model)
    with model.edited(edits):
        found = model.hf(torch.tensor([IDS])).logits
        other = model.hf(input_ids=torch.tensor([OTHER[:3]])).logits
        generated = model.hf.generate(
            torch.tensor([IDS]), max_new_tokens=3, do_sample=False, eos_token_id=None
        )
        assert torch.equal(ll.run(model, IDS).logits, plain)  # our own passes take edits=
    close(found, ll.run(model, IDS, edits).logits)
    close(other, ll.run(model, OTHER[:3], edits).logits)
    assert generated[0, 6:].tolist() == model.generate(IDS, 3, edits, eos_token_id=None).new_ids
    assert torch.equal(logits(model, IDS), plain)
    assert hooks(model) == before  # transformers leaves some once it was asked for attentions


def hooks(model: LensModel) -> int:
    """How many hooks are on a model."""
    modules = model.hf.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def test_a_given_prompt_tells_generated_tokens_apart_without_a_cache() -> None:
    model = tiny("gpt2")
    edit = ll.edit("resid_post.1", "add", VECTOR, position=-1, steps="all")
    _, expected = plain_loop(model, "resid_post", adds_at(lambda column: column >= 5), 3)
    ids = list(IDS)
    with torch.no_grad(), model.edited(edit, IDS):
        for row in expected:
            found = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1]
            close(found, row)
            ids.append(int(found.argmax()))
        with pytest.raises(ll.InputError, match="does not begin with the text"):
            model.hf(torch.tensor([OTHER]))


def test_a_cache_is_counted_from_where_it_was_filled() -> None:
    model = tiny("llama")
    edit = ll.edit("resid_post.1", "add", VECTOR, steps=[1])
    _, expected = plain_loop(model, "resid_post", adds_at(lambda column: column == 7), 3)
    with torch.no_grad(), model.edited(edit):
        output = model.hf(torch.tensor([IDS]), use_cache=True)
        key, cache = cache_in(output)
        for row in expected:
            close(output.logits[0, -1], row)
            best = output.logits[:, -1:].argmax(-1)
            output = model.hf(best, **{key: cache}, use_cache=True)
    with pytest.raises(ll.InputError, match="filled before"), model.edited(edit):
        model.hf(torch.tensor([[3]]), **{key: cache})


def cache_in(output: Any) -> tuple[str, Any]:
    """The cache that a model gave, and the keyword that takes it."""
    return next((key, value) for key, value in output.items() if is_cache(value))


def test_a_cache_is_found_where_it_was_given_by_place() -> None:
    model = tiny("llama")
    edit = ll.edit("resid_post.1", "add", VECTOR, position=-1)
    names = list(inspect.signature(model.hf.forward).parameters)
    with torch.no_grad(), model.edited(edit):
        key, cache = cache_in(model.hf(torch.tensor([IDS]), use_cache=True))
        between = [None] * (names.index(key) - 1)
        found = model.hf(torch.tensor([[7]]), *between, cache).logits[0, -1]
    at_five = ll.edit("resid_post.1", "add", VECTOR, position=5)
    close(found, ll.run(model, [*IDS, 7], at_five).logits[0, -1])


@pytest.mark.parametrize("family", ["rwkv", "mamba"])
def test_states_that_do_not_count_belong_to_the_last_call(family: str) -> None:
    model = tiny(family)
    edit = ll.edit("resid_post.1", "add", VECTOR, steps=[1])
    text = [*IDS, 7, 30, 12]
    at_seven = ll.edit("resid_post.1", "add", VECTOR, position=7)
    expected = [ll.run(model, text[:n], at_seven if n > 7 else ()).logits for n in range(6, 10)]
    with torch.no_grad(), model.edited(edit):
        output = model.hf(torch.tensor([IDS]), use_cache=True)
        for token, rows in zip(text[6:], expected, strict=False):
            close(output.logits[0, -1], rows[0, -1])
            key, cache = cache_in(output)
            output = model.hf(torch.tensor([[token]]), **{key: cache}, use_cache=True)
        close(output.logits[0, -1], expected[-1][0, -1])
        other = model.hf(torch.tensor([OTHER]), use_cache=True)
        with pytest.raises(ll.InputError, match="not the one of the last edited call"):
            model.hf(torch.tensor([[3]]), **{key: cache}, use_cache=True)
        assert cache_in(other)[1] is not cache


def test_a_call_that_failed_leaves_no_count_behind() -> None:
    model = tiny("rwkv")
    with torch.no_grad(), model.edited(ll.edit("resid_post.1", "add", VECTOR)):
        key, cache = cache_in(model.hf(torch.tensor([IDS]), use_cache=True))
        with pytest.raises(IndexError):
            model.hf(torch.tensor([[2000]]), **{key: cache}, use_cache=True)
        with pytest.raises(ll.InputError, match="positions cannot be counted"):
            model.hf(torch.tensor([[7]]), **{key: cache}, use_cache=True)


def test_a_static_cache_is_counted() -> None:
    model = tiny("llama")
    edits = [
        ll.edit("resid_post.1", "add", VECTOR, steps=[0, 2]),
        ll.edit("v.0", "scale", 2, position=1, steps=1),
    ]
    ids, steps = step_logits(model, edits, cache_implementation="static", disable_compile=True)
    again, without = step_logits(model, edits, use_cache=False)
    assert ids == again
    close(steps, without)


def test_the_head_must_be_given_what_was_reckoned_with() -> None:
    model = tiny("llama")
    edit = ll.edit("head_input", "add", VECTOR, position=-1)
    kept = torch.tensor([0, 1])  # the first two: not "the last so many"
    with pytest.raises(ll.SiteError, match=r"held 2 positions .* not 6"), model.edited(edit):
        model.hf(torch.tensor([IDS]), logits_to_keep=kept)


def test_gradients_reach_a_tensor_in_an_edit() -> None:
    model = tiny("llama")
    vector = torch.zeros(32, requires_grad=True)
    with model.edited(ll.edit("resid_post.1", "add", vector, position=2)):
        output = model.hf(torch.tensor([IDS])).logits[0, -1, 7]
    (found,) = torch.autograd.grad(output, vector)
    step = 1e-2 * torch.eye(32)[4]
    pair = [
        logits(model, IDS, ("resid_post", 1, lambda old, s=sign: _added(old, 2, s * step)))[
            0, -1, 7
        ]
        for sign in (1, -1)
    ]
    assert found[4].item() == pytest.approx(((pair[0] - pair[1]) / 2e-2).item(), rel=0.02, abs=1e-4)


def _added(value: Tensor, position: int, step: Tensor) -> Tensor:
    value[:, position] += step
    return value


def test_train_mode_is_put_back_and_errors_leave_no_hooks() -> None:
    model = LensModel.wrap(tiny_model("llama", attention_dropout=0.5), None, prove=False)
    model.hf.train()
    plain = ll.run(model, IDS, ll.edit("z.1", "scale", 2)).logits
    with model.edited(ll.edit("z.1", "scale", 2)):
        assert not model.hf.training
        close(model.hf(torch.tensor([IDS])).logits, plain)
    assert model.hf.training
    with pytest.raises(ZeroDivisionError), model.edited(ll.edit("z.1", "scale", 2)):
        raise ZeroDivisionError
    with pytest.raises(IndexError), model.edited(ll.edit("pattern.1", "scale", 2)):
        model.hf(torch.tensor([[5, 2000]]))  # no such token: the call itself fails
    assert hooks(model) == 0
    modules = model.hf.modules()
    assert all(getattr(m, "config", model.hf.config) is model.hf.config for m in modules)
    assert model.hf.training and not model.edited_now


def test_an_edit_without_a_call_is_an_error() -> None:
    model = tiny("gpt2")
    with (
        pytest.raises(ll.SiteError, match="was never applied"),
        model.edited(ll.edit("z.1", "zero")),
    ):
        pass
    with (
        pytest.raises(ll.SiteError, match=r"steps=3.* was never applied"),
        model.edited(ll.edit("z.1", "zero", steps=3)),
    ):
        model.hf(torch.tensor([IDS]))
    with model.edited(()), pytest.raises(ll.InputError, match="being edited already"):
        model.generate(IDS, 2)
    with pytest.raises(ll.InputError, match="input_ids"), model.edited(ll.edit("z.1", "zero")):
        model.hf(inputs_embeds=torch.zeros(1, 3, 32))


def test_other_threads_are_not_edited() -> None:
    model = tiny("llama")
    plain = logits(model, IDS)
    seen: list[Tensor] = []
    edit = ll.edit("pattern.1", "zero", position=-1)
    with model.edited(edit):
        found = model.hf(torch.tensor([IDS])).logits
        thread = threading.Thread(target=lambda: seen.append(logits(model, IDS)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain) and not torch.allclose(found, plain, atol=1e-4)
