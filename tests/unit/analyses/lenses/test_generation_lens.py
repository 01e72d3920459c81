"""A lens on what a model writes, against plain hooks on whole passes without a cache."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.answers.divergence import FromFirst
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.exits import RULES, exit_points, exit_scores
from layerlens.analyses.lenses.generation_lens import generation_lens
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel

from ..conftest import build

IDS = [5, 17, 20, 3, 90, 41]
NEW = 5
PARTS = {
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "llama": ("model.layers", "model.norm"),
    "gemma2": ("model.layers", "model.norm"),
}


def model_of(family: str) -> LensModel:
    model = build(family)
    model.hf.generation_config.eos_token_id = None
    return model


def states_by_hand(model: LensModel, family: str, ids: list[int]) -> list[Tensor]:
    """States after each block at the last position, of one pass without a cache."""
    found: list[Tensor] = []
    blocks = model.hf.get_submodule(PARTS[family][0])

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output[0])[0, -1])

    hooks = [block.register_forward_hook(keep) for block in blocks]
    with torch.no_grad():
        model.hf(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def logprobs_by_hand(model: LensModel, family: str, states: list[Tensor]) -> Tensor:
    with torch.no_grad():
        x = model.hf.get_submodule(PARTS[family][1])(torch.stack(states))
        logits = model.hf.get_output_embeddings()(x)
    if family == "gemma2":
        logits = 3.0 * torch.tanh(logits / 3.0)
    return logits.log_softmax(-1)


def close(found: Any, expected: Any, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("family", list(PARTS))
def test_each_column_is_that_of_plain_hooks_on_the_whole_text(family: str) -> None:
    model = model_of(family)
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW, top_k=3)
    assert lens.checks.ok
    data, ids = lens.data, list(IDS)
    assert data.point.values.tolist() == ["0_post", "1_post", "2_post", "final"]
    for step in range(NEW):
        states = states_by_hand(model, family, ids)
        logp = logprobs_by_hand(model, family, [*states, states[-1]])
        written = int(logp[-1].argmax())
        column = data.isel(step=step)
        assert int(column.written_id) == written
        top = logp.topk(3)
        np.testing.assert_array_equal(column.token_id, top.indices)
        close(column.probability, top.values.exp())
        close(column.written_probability, logp[:, written].exp())
        np.testing.assert_array_equal(column["rank"], (logp > logp[:, [written]]).sum(-1) + 1)
        close(column.entropy, -(logp.exp() * logp).sum(-1))
        close(column.margin, top.values.exp()[:, 0] - top.values.exp()[:, 1])
        close(column.kl_to_final, (logp[-1].exp() * (logp[-1] - logp)).sum(-1), 1e-4)
        before = [states_before(model, ids), *states[:-1]]
        cosine = [torch.cosine_similarity(a, b, dim=0) for a, b in zip(states, before, strict=True)]
        close(column.state_cosine[:-1], torch.stack(cosine))
        settle = 3
        while settle and int(top.indices[settle - 1, 0]) == written:
            settle -= 1
        assert int(column.settle_point) == settle
        ids.append(written)


def states_before(model: LensModel, ids: list[int]) -> Tensor:
    return ll.record(model, ids, ["resid_pre.0"])["resid_pre.0"][0, -1]


def test_edits_while_it_writes_are_those_of_a_lens_on_the_edited_text() -> None:
    model = model_of("llama")
    edits = [
        ll.edit("mlp_out.1", "scale", 3.0, position=2),
        ll.edit("resid_post.0", "scale", 0.2, steps=[1, 2]),
    ]
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW, edits=edits, verify=NEW)
    assert lens.checks.ok
    plain = ll.generation_lens(model, IDS, max_new_tokens=NEW)
    assert lens.data.written_id.values.tolist() != plain.data.written_id.values.tolist()
    whole = [*IDS, *lens.data.written_id.values.tolist()[:-1]]
    again = [
        ll.edit("mlp_out.1", "scale", 3.0, position=2),
        ll.edit("resid_post.0", "scale", 0.2, position=[7, 8]),
    ]
    one = ll.logit_lens(model, whole, points="post", edits=again).data
    close(lens.data.entropy, one.entropy[:, len(IDS) - 1 :])
    np.testing.assert_array_equal(lens.data.token_id, one.token_id[:, len(IDS) - 1 :])


def test_several_texts_are_each_as_alone_and_one_that_ends_early_is_left() -> None:
    model = model_of("llama")
    texts = [IDS, IDS[:3]]
    alone = [ll.generation_lens(model, text, max_new_tokens=NEW).data for text in texts]
    written = [data.written_id.values.tolist() for data in alone]
    end = next(token for token in written[1] if token not in written[0])
    n = written[1].index(end) + 1
    assert n < NEW
    model.hf.generation_config.eos_token_id = end
    lens = ll.generation_lens(model, texts, max_new_tokens=NEW)
    assert lens.checks.ok and lens.data.attrs["complete"] == 1
    assert lens.data.written_id.dims == ("batch", "step")
    close(lens.data.entropy[0], alone[0].entropy)
    close(lens.data.entropy[1, :, :n], alone[1].entropy[:, :n])
    assert (lens.data.written_id[1, n:] == -1).all() and lens.data.entropy[1, :, n:].isnull().all()


def test_what_is_drawn_is_what_generate_draws_and_the_users_draws_go_on() -> None:
    model = model_of("gpt2")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(1)
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW, temperature=2.0, seed=7)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        drawn = model.hf.generate(
            torch.tensor([IDS]), max_new_tokens=NEW, do_sample=True, temperature=2.0, top_k=0
        )
    assert lens.data.written_id.values.tolist() == drawn[0, len(IDS) :].tolist()
    assert lens.checks.ok and "written is the final answer" not in lens.checks
    assert lens.data.attrs["seed"] == 7


def test_what_it_begins_with_is_written_and_read_like_anything_else() -> None:
    model = model_of("llama")
    other = [7, 8]
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW, begin=np.array(other), verify=NEW)
    plain = ll.generation_lens(model, [*IDS, *other], max_new_tokens=NEW - 2)
    assert lens.checks.ok
    assert lens.data.written_id.values.tolist() == [*other, *plain.data.written_id.values.tolist()]
    close(lens.data.entropy[:, 2:], plain.data.entropy)
    assert int(lens.data["rank"][-1, 0]) > 1


def test_it_stops_behind_a_text_and_where_the_model_ends() -> None:
    toy = ll.load("toy:induction")
    lens = ll.generation_lens(toy, "cat dog owl cat", max_new_tokens=9, stop="owl")
    assert lens.data.token.values.tolist() == ["dog", "owl"]
    assert lens.data.attrs["complete"] == 1


def test_a_stopped_call_keeps_what_was_written() -> None:
    model = model_of("llama")

    class Impatient(Silent):
        done = 0

        def on_progress(self, done: int, total: int, what: str) -> None:
            self.done = done

        def cancelled(self) -> bool:
            return self.done == 2

    with pytest.raises(Cancelled) as stop:
        generation_lens.run(model, IDS, {"max_new_tokens": NEW}, Impatient())
    partial = stop.value.partial
    whole = ll.generation_lens(model, IDS, max_new_tokens=NEW).data
    assert partial.data.sizes["step"] == 2 and partial.data.attrs["complete"] == 0
    np.testing.assert_array_equal(partial.data.token_id, whole.token_id[:, :2])


def test_a_cache_that_is_wrong_fails_the_check() -> None:
    model = model_of("llama")
    block = model.hf.get_submodule("model.layers.0")

    def later(module: Any, args: Any, output: Tensor) -> Tensor:
        return output if output.shape[1] > 1 else output * 1.5

    hook = block.register_forward_hook(later)
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW)
    hook.remove()
    assert [check.name for check in lens.checks if not check.ok] == ["cached is uncached"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "from 1"),
        ({"max_new_tokens": 99}, "at most 64"),
        ({"temperature": -1}, "from 0"),
        ({"begin": [7] * 9, "max_new_tokens": 3}, "raise it"),
        ({"stop": [""]}, "give strings"),
        ({"rule": "hope"}, "margin, confidence, entropy, state, patience"),
        ({"top_k": 0}, "expected 1 to"),
        ({"lens": "magic"}, "magic"),
        ({"num_beams": 4}, "num_beams"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ll.InputError, ll.ResultError), match=words):
        ll.generation_lens(model_of("llama"), IDS, **options)


def test_an_estimate_counts_what_is_then_used() -> None:
    model = model_of("llama")
    lens = ll.generation_lens(model, IDS, max_new_tokens=NEW)
    estimate = ll.estimate("generation_lens", model, IDS, max_new_tokens=NEW)
    assert estimate.passes == lens.data.attrs["passes"] == 2
    assert estimate.tokens == len(IDS) + NEW - 1
    longer = ll.generation_lens(model, IDS * 8, max_new_tokens=NEW)
    # Three rows a token (the last block's is the final one), and two tokens read again.
    assert longer.data.attrs["head_rows"] == lens.data.attrs["head_rows"] == 3 * NEW + 2 * 4


def test_divergences_from_the_first_of_a_group_are_those_of_whole_rows() -> None:
    logits = 3 * torch.randn(12, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 4] = -float("inf")
    found = FromFirst(3)
    for start in (0, 5, 10):  # blocks that cut groups
        found.see(start, logits[start : start + 5])
    logp = logits.double().log_softmax(-1).nan_to_num(neginf=-1e9)
    first = logp[::3].repeat_interleave(3, 0)
    close(found.kl(logits.logsumexp(-1)), (first.exp() * (first - logp)).sum(-1), 1e-5)


def test_exits_move_with_the_threshold_and_end_at_the_last_point() -> None:
    rng = np.random.default_rng(0)
    top = np.array([[1, 1], [2, 1], [2, 1], [2, 3]])
    numbers = {
        "margin": rng.random((4, 2)),
        "probability": rng.random((4, 2)),
        "entropy": rng.random((4, 2)),
        "state_cosine": np.array([[np.nan, np.nan], [0.5, 0.6], [0.7, 0.8], [np.nan, np.nan]]),
        "top_id": top,
    }
    assert exit_scores("patience", numbers, 9).tolist() == [[1, 1], [1, 2], [2, 3], [3, 1]]
    assert exit_scores("entropy", {"entropy": np.full((1, 1), np.log(9))}, 9) == [[0.0]]
    assert exit_points(exit_scores("patience", numbers, 9), 1).tolist() == [2, 1]
    for rule in RULES:
        score = exit_scores(rule, numbers, 9)
        exits = [exit_points(score, threshold) for threshold in (-1, 0.3, 0.6, 0.9, 2, 99)]
        assert all((a <= b).all() for a, b in pairwise(exits))
        assert exits[-1].tolist() == [3, 3]


def test_blocks_that_always_run_are_not_stopped_in() -> None:
    model = model_of("llama")
    options = {"max_new_tokens": 4, "threshold": -1.0}
    assert set(ll.generation_lens(model, IDS, **options).data.exit_layer.values) == {0}
    late = ll.generation_lens(model, IDS, min_layers=2, **options).data
    assert set(late.exit_layer.values) == {1}  # two blocks have run
    assert late.attrs["min_layers"] == 2
    with pytest.raises(InputError, match="min_layers is 99; expected 0 to"):
        ll.generation_lens(model, IDS, min_layers=99)


def test_a_fitted_lens_reads_through_its_map() -> None:
    model = model_of("llama")
    from layerlens.result.fitted import Fitted, ModelFacts

    shift = torch.linspace(-1, 1, model.d_model)
    fitted = Fitted("bias_lens", {"0_post.bias": shift}, ModelFacts.of(model), data="")
    lens = ll.generation_lens(model, IDS, max_new_tokens=1, lens=fitted, points=["0_post"])
    state = states_by_hand(model, "llama", IDS)[0]
    logp = logprobs_by_hand(model, "llama", [state + shift])
    close(lens.data.entropy[0, 0], -(logp.exp() * logp).sum())
