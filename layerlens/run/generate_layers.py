"""Generate text along a sequence of blocks that is not the model's own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from layerlens.errors import InputError, ModelError
from layerlens.model.conventions import LAYER_NUMBER
from layerlens.model.evidence import logit_error
from layerlens.model.feed import text_config
from layerlens.model.required import require_model
from layerlens.run.layers import layer_numbers, run_layers, show_order

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2}
"""How far cached logits may be from uncached ones, of the largest logit; else bfloat16's."""
BFLOAT16_TOLERANCE = 1e-1


@dataclass(frozen=True, eq=False)
class LayersText:
    """What a model wrote along a sequence of blocks.

    Attributes
    ----------
    order
        The blocks of each step, first to last.
    text
        What was written, without the prompt.
    ids, strings
        Its tokens.
    logits
        ``[token, vocabulary]`` float32, with which each was chosen.
    error
        Largest difference of these from logits computed without a cache, of the largest logit.
    """

    prompt: str
    order: tuple[int, ...]
    text: str
    ids: tuple[int, ...]
    strings: tuple[str, ...]
    logits: Tensor = field(repr=False)
    error: float

    def __repr__(self) -> str:
        return f"{self.prompt}|{self.text}| (blocks {show_order(self.order)})"


def generate_layers(
    model: LensModel,
    text: Any,
    order: Iterable[int],
    max_new_tokens: int = 20,
    *,
    add_bos: bool | None = None,
) -> LayersText:
    """Write on greedily, with a sequence of the model's own blocks in place of its own.

    The blocks are run through shallow copies that share every weight, each with a place of its
    own in the cache, so a block may occur twice; the model itself is not touched. What was
    written is verified: the whole text is run once more along the path without a cache, and the
    two must agree.

    Parameters
    ----------
    model
        From :func:`layerlens.load`.
    text
        One text in any form that ``model.tokens`` takes.
    order
        Numbers of the blocks, first to last, at least one.
    max_new_tokens
        Stop after so many; also where the model ends its text.
    add_bos
        Put the begin token in front, or leave it out; None: as the tokenizer does by itself.

    Returns
    -------
    LayersText
        ``text``, ``ids``, ``logits``, and ``error``, the result of the comparison.

    Raises
    ------
    InputError
        A layer does not exist, no block is named, or several texts are given.
    ModelError
        The cache of this family cannot follow the path: its logits differ from those without.

    References
    ----------
    Li et al., Skip a Layer or Loop it? Test-Time Depth Adaptation of Pretrained LLMs (2025).

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.generate_layers(model, "cat dog owl cat", [0, 1, 1], max_new_tokens=2)
    <bos>catdogowlcat|dogowl| (blocks 0-1, 1)
    """
    require_model(model)
    steps = layer_numbers(model, order, "order")
    tokens = model.tokens(text, add_bos=add_bos)
    if not steps:
        raise InputError("order names no block: generation needs at least one.")
    if not tokens.single:
        raise InputError(f"{len(tokens.ids)} texts were given: generate along a path one by one.")
    room = (model.max_positions or 10**9) - tokens.ids.shape[1]
    if not 1 <= max_new_tokens <= room:
        raise InputError(f"max_new_tokens is {max_new_tokens}; expected 1 to {room} here.")
    ids, logits = _write(model, tokens.ids, steps, max_new_tokens)
    off = _check(model, tokens.ids[0].tolist(), ids, steps, logits)
    strings, _ = model.vocabulary.split(ids)
    prompt = "".join(tokens.strings[0])
    return LayersText(prompt, steps, "".join(strings), tuple(ids), strings, logits, off)


def _write(
    model: LensModel, prompt: Tensor, steps: Sequence[int], most: int
) -> tuple[list[int], Tensor]:
    """Token ids and their logits, chosen greedily with the twin's cache."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=model.hf.generation_config.eos_token_id,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    prompt = prompt.to(model.device)
    with model.running():
        twin: Any = path_twin(model, steps)
        try:
            out = twin.generate(
                prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
            )
        except (LookupError, RuntimeError, AttributeError, TypeError, ValueError) as failure:
            raise _refusal(model, steps, f"its cache fails ({failure})") from failure
    ids = out.sequences[0, prompt.shape[1] :].tolist()
    return ids, torch.cat(list(out.logits)).float()


def _check(
    model: LensModel, prompt: list[int], ids: list[int], steps: Sequence[int], logits: Tensor
) -> float:
    """Compare with the path run over the whole text without a cache."""
    plain = run_layers(model, [*prompt, *ids[:-1]], steps).logits[0, len(prompt) - 1 :]
    off = logit_error(logits, plain)
    allowed = TOLERANCE.get(model.dtype, BFLOAT16_TOLERANCE)
    if not off <= allowed:
        why = f"its cached logits are off by {off:.2g} of the largest, allowed is {allowed:.2g}"
        raise _refusal(model, steps, why)
    return off


def _refusal(model: LensModel, steps: Sequence[int], why: str) -> ModelError:
    return ModelError(
        f"{model.name} ({model.anatomy.family}) cannot generate along the path "
        f"{show_order(steps)}: {why}; use run_layers, which needs no cache, token by token."
    )


def path_twin(model: LensModel, steps: Sequence[int]) -> PreTrainedModel:
    """A shallow copy of the Hugging Face model whose blocks are those of a path.

    Weights are shared; the list of blocks, everything that leads to it, the blocks and their
    parts that know their number, and the configuration are copies.

    Raises
    ------
    ModelError
        The blocks do not stand in one list.
    """
    paths = [block.path for block in model.anatomy.blocks]
    parent = paths[0].rpartition(".")[0]
    blocks = model.hf.get_submodule(parent)
    if not isinstance(blocks, nn.ModuleList) or paths != [
        f"{parent}.{number}" for number in range(len(blocks))
    ]:
        raise _refusal(model, steps, "its blocks do not stand in one list")
    config = _path_config(model.hf, steps)
    old, inner = text_config(model.hf), config.get_text_config(decoder=True)
    twin: PreTrainedModel = _shallow(model.hf)
    here: nn.Module = twin
    twin.config = config
    for name in parent.split(".")[:-1]:
        here._modules[name] = _shallow(here.get_submodule(name))
        here = here.get_submodule(name)
        if hasattr(here, "config"):
            here.config = inner if here.config is old else config
    renumbered = [_numbered(blocks[layer], step, inner) for step, layer in enumerate(steps)]
    here._modules[parent.rpartition(".")[2]] = nn.ModuleList(renumbered)
    return twin


def _path_config(hf: PreTrainedModel, steps: Sequence[int]) -> Any:
    """A copy of the configuration with the path's number of blocks, and lists a block to match."""
    config = copy.deepcopy(hf.config)
    inner = config.get_text_config(decoder=True)
    layers = int(inner.num_hidden_layers)
    for name, value in list(vars(inner).items()):
        if "layer" in name and isinstance(value, list) and len(value) == layers:
            setattr(inner, name, [value[layer] for layer in steps])
    inner.num_hidden_layers = len(steps)
    return config


def _shallow(module: nn.Module) -> Any:
    """A copy of a module with children of its own to exchange; weights and hooks are shared."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _numbered(module: nn.Module, number: int, config: Any) -> Any:
    """A shallow copy in which every part that knows its number is the ``number``-th."""
    twin: Any = _shallow(module)
    if hasattr(twin, LAYER_NUMBER):
        setattr(twin, LAYER_NUMBER, number)
    if hasattr(twin, "config"):
        twin.config = config
    for name, child in module._modules.items():
        if child is not None and any(hasattr(part, LAYER_NUMBER) for part in child.modules()):
            twin._modules[name] = _numbered(child, number, config)
    return twin
