"""Any model of transformers, a few thousand parameters small.

The weights are random and mean nothing: such a model is for checking that a family's
anatomy is found and proven, in milliseconds and without a download.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from layerlens.errors import ModelError
from layerlens.model.tiny_families import EXTRAS, LATENT, SIZES, TASKS

#: A tiny model may not have more parameters than this; one that sees in stages has a size a stage,
#: which are left as they are.
MOST_PARAMETERS, MOST_IN_STAGES = 5_000_000, 40_000_000

#: Names under which families state their number of blocks.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def tiny_model(
    model_type: str, seed: int = 0, *, task: str = "CausalLM", **overrides: Any
) -> PreTrainedModel:
    """Build a tiny model of a family with perturbed random weights.

    Parameters
    ----------
    model_type
        ``model_type`` of the family's configuration, such as ``"llama"``.
    seed
        Seed of the weights.
    task
        What it is for, as transformers names its automatic classes: ``"CausalLM"``,
        ``"MaskedLM"``, ``"Seq2SeqLM"``, ``"ImageClassification"``, ``"CTC"`` and so on.
    **overrides
        Configuration attributes, put in place of the tiny ones.

    Returns
    -------
    PreTrainedModel
        In ``eval`` mode. Matrices are normal with standard deviation 0.2; biases and the
        gains of norms are their initial values plus normal noise of 0.1, so that a part
        that is left out shows.

    Raises
    ------
    ModelError
        If the configuration that results is not tiny.
    """
    config = tiny_config(model_type, task=task, **overrides)
    _require_tiny(config, task)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = _build(config, task)
        model.train(False)
        perturb(model)
    finally:
        torch.random.set_rng_state(state)
    return model


def tiny_config(model_type: str, *, task: str = "CausalLM", **overrides: Any) -> PreTrainedConfig:
    """Make the configuration of a tiny model; see :func:`tiny_model`."""
    cls = CONFIG_MAPPING[model_type]
    known = vars(_default(cls, EXTRAS.get(model_type, {})))
    for_task = {name: value for name, value in TASKS.get(task, {}).items() if name in known}
    extras = {**for_task, **EXTRAS.get(model_type, {}), **overrides}
    return _shrunk(CONFIG_MAPPING[model_type], None, extras)


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Give everything that a checkpoint stores random values, so that biases and gains matter."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.normal_(std=0.2)
        else:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    stored = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in stored and buffer.is_floating_point():
            buffer.add_(torch.randn_like(buffer) * 0.1)


def _build(config: PreTrainedConfig, task: str) -> PreTrainedModel:
    config.architectures = config.architectures or []  # some tasks have several classes
    model: PreTrainedModel = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    return model


def _require_tiny(config: PreTrainedConfig, task: str) -> None:
    """Count the parameters before any memory is taken."""
    with torch.device("meta"):
        model = _build(config, task)
    size = sum(parameter.numel() for parameter in model.parameters())
    most = MOST_IN_STAGES if task == "ImageClassification" else MOST_PARAMETERS
    if size > most:
        raise ModelError(
            f"A tiny {config.model_type} would have {size:,} parameters, more than {most:,}: its "
            "sizes have names that layerlens does not know."
        )


def _shrunk(
    cls: type[PreTrainedConfig], default: PreTrainedConfig | None, extras: dict[str, Any]
) -> PreTrainedConfig:
    """Make a configuration of this class with every size made small.

    ``extras`` win over the table of sizes; a dictionary among them holds extras of the
    nested configuration of that name.
    """
    nested = dict(cls.sub_configs)
    values: dict[str, Any] = {}
    default = _default(cls, extras) if default is None else default
    known = default.to_dict()
    reached = {name: old for name, old in known.items() if name not in nested}
    layers = next((reached[name] for name in LAYERS if isinstance(reached.get(name), int)), None)
    few = next((extras[name] for name in LAYERS if name in extras), SIZES["num_hidden_layers"])
    sizes = SIZES | LATENT if known.get("kv_lora_rank") else SIZES
    for name, old in reached.items():
        if name in sizes and isinstance(old, list | tuple):
            continue  # one size a stage
        if name in sizes and old is not None:
            values[name] = sizes[name]
        elif isinstance(old, list) and layers and len(old) == layers and len(old) > 2:
            values[name] = _spread(old, few)
    for name, real in cls.attribute_map.items():
        if name in sizes and known.get(real) is not None and real not in sizes:
            values[name] = sizes[name]
    for name in nested:
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            more = extras.get(name, {})
            family = EXTRAS.get(inner.model_type, {})
            values[name] = _shrunk(type(inner), inner, {**family, **more})
    flat = {name: value for name, value in extras.items() if name not in nested}
    return cls(**{**values, **flat})


def _default(cls: type[PreTrainedConfig], extras: dict[str, Any]) -> PreTrainedConfig:
    """Return the family's default configuration; some are not valid without the extras."""
    try:
        return cls()
    except Exception:  # validators raise errors of several libraries
        return cls(**extras)


def _spread(values: Sequence[Any], n: int) -> list[Any]:
    """``n`` entries of a list with one entry a block, in which each kind of block occurs."""
    kinds = [value for index, value in enumerate(values) if value not in values[:index]]
    return [kinds[index % len(kinds)] for index in range(n)]
