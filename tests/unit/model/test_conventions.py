"""What tells a cache from all else that a call of a model is given."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig, StaticCache

import layerlens as ll
from layerlens.model.conventions import (
    attention_function,
    attention_of,
    cache_of,
    call_arguments,
    choose_attention,
    is_cache,
    kept_positions,
    keys_with,
    token_ids,
    tokens_in,
)
from layerlens.model.tiny import tiny_config, tiny_model

KEYS = torch.zeros(1, 2, 3, 8)


class Counts:
    """Somebody's own cache."""

    def get_seq_length(self) -> int:
        return 4


class States:
    """States without a count, as xLSTM carries them."""

    def __init__(self) -> None:
        self.states = {0: (torch.zeros(2), torch.zeros(2))}


def filled() -> DynamicCache:
    cache = DynamicCache()
    cache.update(KEYS, KEYS, 0)
    return cache


@pytest.mark.parametrize(
    "value",
    [
        DynamicCache(),
        StaticCache(config=tiny_config("llama"), max_cache_len=8),
        Counts(),
        States(),
        [torch.zeros(1, 32, 3)] * 5,
        ((KEYS, KEYS), (KEYS, KEYS)),
        {"state": torch.zeros(2)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cache_is_known_by_what_it_is(value: Any) -> None:
    assert is_cache(value)
    for name in ("past_key_values", "cache", "a_name_of_tomorrow"):
        assert cache_of({"input_ids": torch.tensor([[1]]), name: value, "use_cache": True}) is value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        "cache",
        torch.zeros(2),
        [1, 2],
        (torch.tensor([1, 2]),),
        nn.Linear(2, 2),
        tiny_config("llama"),
        torch.float32,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_cache_is_none(value: Any) -> None:
    assert not is_cache(value)
    assert cache_of({"input_ids": torch.tensor([[1]]), "cache": value}) is None


def test_masks_made_by_the_caller_are_no_cache() -> None:
    masks = {"full_attention": torch.zeros(1, 1, 3, 3)}
    assert cache_of({"attention_mask": masks}) is None


def test_two_caches_are_refused_and_one_beside_other_tensors_is_found() -> None:
    cache = filled()
    assert cache_of({"cache": cache, "pictures": [torch.zeros(2)]}) is cache
    with pytest.raises(ll.InputError, match="a DynamicCache and a DynamicCache"):
        cache_of({"cache": cache, "another": filled()})


def test_a_cache_that_counts_is_asked() -> None:
    assert tokens_in(filled()) == 3 and tokens_in(DynamicCache()) == 0
    assert tokens_in(Counts()) == 4
    assert tokens_in(States()) is None and tokens_in([torch.zeros(2)]) is None


def test_keys_are_told_by_the_cache_or_refused() -> None:
    assert keys_with(None, 5, 0) == (5, 0)
    assert keys_with(filled(), 2, 0) == (5, 0)
    with pytest.raises(ll.SiteError, match="A Counts does not say which keys"):
        keys_with(Counts(), 1, 0)


class Model(nn.Module):
    """A model whose arguments stand in an order of its own."""

    def forward(self, input_ids: Any, cache: Any = None, *, use_cache: bool = True) -> None: ...


def test_arguments_given_by_place_get_their_names() -> None:
    ids = torch.tensor([[1, 2]])
    found = call_arguments(Model(), (ids, "a cache"), {"use_cache": False})
    assert found == {"input_ids": ids, "cache": "a cache", "use_cache": False}
    assert token_ids(found) is ids
    with pytest.raises(ll.InputError, match="call the model with input_ids"):
        token_ids({"inputs_embeds": torch.zeros(1, 2, 3)})


def test_logits_are_kept_for_so_many_of_the_last() -> None:
    assert kept_positions({}, 5) == 5 and kept_positions({"logits_to_keep": 0}, 5) == 5
    assert kept_positions({"logits_to_keep": 2}, 5) == 2
    assert kept_positions({"logits_to_keep": 9}, 5) == 5


def test_an_attention_function_is_chosen() -> None:
    config = tiny_config("llama")
    choose_attention(config, "eager")
    assert attention_of(config) == "eager" and attention_of(None) is None


class Elsewhere:
    """A configuration of a release that keeps the choice somewhere else."""

    _attn_implementation = "sdpa"


def test_a_choice_kept_elsewhere_is_said() -> None:
    with pytest.raises(ll.ModelError, match="keeps the choice of an attention function somewhere"):
        choose_attention(Elsewhere(), "eager")


def test_a_release_without_the_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PreTrainedConfig, "_attn_implementation")
    with pytest.raises(ll.ModelError, match=rf"transformers {re.escape(transformers.__version__)}"):
        ll.load(tiny_model("llama"), None)


def test_a_family_may_replace_an_attention_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model("llama").model.layers[0].self_attn
    code = sys.modules[type(module).__module__]
    assert attention_function(module, "eager") is code.eager_attention_forward
    assert attention_function(module, "sdpa") is AttentionInterface()["sdpa"]
    own = AttentionInterface()
    own["sdpa"] = code.eager_attention_forward
    monkeypatch.setattr(code, "ALL_ATTENTION_FUNCTIONS", own)
    assert attention_function(module, "sdpa") is code.eager_attention_forward
    monkeypatch.delattr(code, "eager_attention_forward")
    with pytest.raises(ll.ModelError, match="has no eager attention in"):
        attention_function(module, "eager")
