"""What can be looked into, and what is refused by name before anything is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from layerlens.errors import LayerLensError, ModelError
from layerlens.model.gguf import first_line
from layerlens.model.settled import settled, uncompiled
from layerlens.model.watch import first_tensor
from layerlens.model.weights import input_device, require_in_memory


def accepted(given: Any) -> Any:
    """Return the transformers model that will be looked into.

    Of a compiled model or one in an adapter's wrapper it is the model inside: the same modules,
    adapters included.

    Raises
    ------
    ModelError
        If it is no transformers model, keeps its adapter outside of its layers, or has no weights.
    """
    hf = _without_adapter_around(uncompiled(given))
    kind = type(hf).__name__
    if not hasattr(hf, "get_input_embeddings") or not hasattr(hf, "config"):
        raise ModelError(f"{kind} is not a transformers model: give a PreTrainedModel.")
    require_in_memory(hf)
    return hf


def _without_adapter_around(model: Any) -> Any:
    peft = sys.modules.get("peft")  # nobody has a model of peft's who has not imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    config = model.active_peft_config
    kind = str(getattr(config.peft_type, "value", config.peft_type)).replace("_", " ").lower()
    if config.is_prompt_learning or kind == "adaption prompt":
        raise ModelError(
            f"The adapter ({kind}) lets the attention see learned states that are no tokens of "
            "the text, so layerlens cannot look into it: give the base model, or an adapter that "
            "changes layers, such as LoRA."
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise ModelError(
            "The adapter (activated LoRA) works from some token of the text on, so its layers do "
            "not treat positions alike and layerlens cannot look into it: give the base model."
        )
    inner = model.get_base_model()
    require_in_memory(inner)
    _require_same(model, inner, kind)
    return inner


def _require_same(model: Any, inner: Any, kind: str) -> None:
    """Raise ModelError where an adapter does more than its layers in the model do."""
    ids = torch.arange(1, 6, device=input_device(inner))[None]
    with settled(model), settled(inner), torch.inference_mode():
        whole, layers = (first_tensor(each(input_ids=ids).to_tuple()) for each in (model, inner))
    if not torch.equal(whole, layers):
        raise ModelError(
            f"The adapter ({kind}) changes what the model gives by more than its layers do, so "
            "layerlens cannot look into it: give the base model, or an adapter such as LoRA."
        )


@contextmanager
def during(what: str, hf: Any) -> Iterator[None]:
    """Say in a ``ModelError`` at which step a model failed by an error that is not ours."""
    try:
        yield
    except LayerLensError:
        raise
    except Exception as error:  # a model's code raises what it likes
        raise ModelError(
            f"{type(hf).__name__} cannot be read: while {what} it raised "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
