"""What files of other packages say of a dictionary: arrays, form and the place that it reads."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.errors import InputError, ResultError
from layerlens.result.files import read_bytes

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
FORMS = {
    "standard": "relu", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu",
    "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
"""Architectures of SAELens, and what we call what they compute."""
REFUSED = {
    "temporal": "its features depend on earlier tokens",
    "matching_pursuit": "its features are found one after the other",
    "abstopk": "its features may be below 0",
}
"""Architectures that are no affine map and a threshold, and why."""
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


@dataclass(frozen=True)
class Foreign:
    """A dictionary as a file has it.

    Attributes
    ----------
    form, arrays
        As :class:`Dictionary` takes them.
    reads, writes
        Names of the sites, as the file has them; None where it does not say.
    transcoder
        Whether it writes elsewhere than it reads.
    config
        What the file says of itself.
    """

    form: Form
    arrays: dict[str, Tensor]
    reads: str | None
    writes: str | None
    transcoder: bool
    config: dict[str, Any]


def read_sae_lens(folder: Path, scale: float | None, *, centred: bool | None) -> Foreign:
    """Read a folder that SAELens wrote, of version 6 or before.

    Parameters
    ----------
    scale
        Factor of ``expected_average_only_in``, which its files lack.
    centred
        Whether the model's writing weights were centred; None: as the file says.

    Raises
    ------
    InputError
        It is of an architecture or a normalisation that is not ours.
    ResultError
        The files cannot be read.
    """
    config = _config(folder / CONFIG)
    named = str(config["architecture"])
    if named not in FORMS:
        why = REFUSED.get(named, "it is not known here")
        raise InputError(
            f"'{folder}' is a dictionary of kind {named!r}, and {why}: expected one of "
            f"{', '.join(FORMS)}."
        )
    arrays = _tensors(folder / WEIGHTS)
    if (grown := arrays.pop("scaling_factor", None)) is not None and config.get(
        "finetuning_scaling_factor"
    ):
        arrays["W_dec"] = arrays["W_dec"] * grown[:, None]
    if config.get("rescale_acts_by_decoder_norm"):
        _fold_norms(arrays)
    if (folder / SPARSITY).is_file():
        logs = _tensors(folder / SPARSITY)["sparsity"]
        arrays["density"] = 10.0 ** logs.double()
    how = str(config.get("normalize_activations") or "none")
    scale = scale if scale is not None else config.get("norm_scaling_factor")
    if how == "expected_average_only_in" and scale is None:
        raise InputError(
            f"'{folder}' was trained on activations times a factor that its files lack: give it as "
            "scale=, the square root of the width over the mean norm of an activation."
        )
    told = _metadata(config)
    said = (told.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights", False)
    transcoder = "transcoder" in named
    form = Form(
        FORMS[named],
        k=int(config["k"]) if named == "topk" else None,
        normalise=how,
        scale=1.0 if scale is None else float(scale),
        # A transcoder's b_dec is of what it writes.
        centred_input=bool(config.get("apply_b_dec_to_input", True)) and not transcoder,
        token_centred=bool(said if centred is None else centred),
    )
    if told.get("hook_head_index") is not None:
        raise InputError(f"'{folder}' reads one head alone: give one that reads all heads.")
    names = (told.get("hook_name"), told.get("hook_name_out"))
    return Foreign(form, arrays, *names, transcoder, config)


def _fold_norms(arrays: dict[str, Tensor]) -> None:
    """Give the decoder rows of norm 1, where features are computed and compared as if it had."""
    norms = arrays["W_dec"].norm(dim=-1)
    arrays["W_enc"] = arrays["W_enc"] * norms
    arrays["b_enc"] = arrays["b_enc"] * norms
    arrays["W_dec"] = arrays["W_dec"] / norms[:, None]


def read_npz(path: Path) -> Foreign:
    """Read ``params.npz`` as Gemma Scope has it: a jumprelu dictionary.

    Raises
    ------
    InputError
        It lacks an array.
    ResultError
        The file cannot be read.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    except (ValueError, OSError) as error:
        raise ResultError(f"'{path}' is no npz file of arrays, or it is damaged.") from error
    needed = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    if lack := [name for name in needed if name not in arrays]:
        raise InputError(f"'{path}' lacks {', '.join(lack)}: expected a jumprelu dictionary.")
    form = Form("jumprelu", centred_input=False)
    return Foreign(form, {name: arrays[name] for name in needed}, None, None, False, {})


def _config(path: Path) -> dict[str, Any]:
    """A configuration in the words of version 6."""
    try:
        given = json.loads(read_bytes(path))
    except ValueError as error:
        raise ResultError(f"'{path}' is not JSON, or it is damaged.") from error
    if not isinstance(given, dict):
        raise ResultError(f"'{path}' holds a {type(given).__name__}, not a configuration.")
    found: dict[str, Any] = {
        _RENAMED.get(str(name), str(name)): value for name, value in given.items()
    }
    found.setdefault("architecture", "standard")
    if found.get("activation_fn", found.get("activation_fn_name")) == "topk":
        kept = (found.get("activation_fn_kwargs") or {}).get("k", found.get("k"))
        found |= {"architecture": "topk", "k": kept}
    if isinstance(how := found.get("normalize_activations"), bool):
        found["normalize_activations"] = "expected_average_only_in" if how else "none"
    return found


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in ``metadata`` since version 6, and beside all else before."""
    return {**config, **(config.get("metadata") or {})}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load(read_bytes(path))
    except SafetensorError as error:
        raise ResultError(f"'{path}' is not a safetensors file, or it is damaged.") from error
