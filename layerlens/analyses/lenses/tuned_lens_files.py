"""Lenses of the ``tuned-lens`` package: read from its folders, and written as such."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.learning import imported
from layerlens.errors import InputError, ResultError
from layerlens.result.files import as_path, read_bytes, write_bytes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.result.fitted import Fitted

CONFIG, PARAMS = "config.json", "params.pt"
LENS_TYPE = "linear_tuned_lens"
AFFINE = ("tuned_lens", "ridge_lens", "bias_lens")
"""Kinds of lens that are an affine map at each point, which is what that package knows."""


def import_tuned_lens(
    path: str | os.PathLike[str], model: LensModel, *, force: bool = False
) -> Fitted:
    """Open a lens that the ``tuned-lens`` package (AlignmentResearch, 0.2) saved.

    Its map ``i`` reads ``hidden_states[i]``, which is the point ``embed`` for 0 and the output of
    block ``i - 1`` after that, in the residual form ``h + weight @ h + bias``. Our own scale and
    soft-cap of the head are applied when it is used, which that package leaves out.

    Parameters
    ----------
    path
        The folder with its ``config.json`` and ``params.pt``.
    model
        The model that it was trained for.
    force
        Take it although it was trained for another head, as the hash in it says.

    Returns
    -------
    Fitted
        Of kind ``"tuned_lens"``, with the numbers and the dtype of the file.

    Raises
    ------
    InputError
        It is for a model of another size or head, or no linear tuned lens.
    ResultError
        The files cannot be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts)
    >>> again = ll.import_tuned_lens(ll.export_tuned_lens(lens, "lens", model), model)
    >>> all(bool((again[name] == lens[name]).all()) for name in lens)
    True
    """
    folder = as_path(path)
    config = _config(folder)
    _require_fit(config, model, force=force)
    state = _state(folder)
    arrays: dict[str, Tensor] = {}
    for index, label in enumerate(_labels(model)):
        for part, shape in (("weight", (model.d_model,) * 2), ("bias", (model.d_model,))):
            array = state.get(f"{index}.{part}")
            if array is None and part == "bias" and not config.get("bias", True):
                continue
            if array is None or tuple(array.shape) != shape:
                raise InputError(
                    f"'{folder / PARAMS}' has no {index}.{part} of shape {shape}: it is not what "
                    "tuned-lens saves for this model."
                )
            arrays[f"{label}.{part}"] = array.contiguous()
    call = f"ll.import_tuned_lens({str(folder)!r}, model{', force=True' * force})"
    return imported("tuned_lens", arrays, model, config, call=call)


def export_tuned_lens(lens: Fitted, folder: str | os.PathLike[str], model: LensModel) -> Path:
    """Write a lens as the ``tuned-lens`` package opens it; return the folder.

    Parameters
    ----------
    lens
        A tuned, ridge or bias lens that was fitted at ``embed`` and after every block but the last.
    folder
        Is made where it is not there.
    model
        The model that it was fitted on.

    Raises
    ------
    InputError
        It is no affine lens, a point is missing, or the head is not one linear map.
    ResultError
        A file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts, kind="bias")
    >>> sorted(path.name for path in ll.export_tuned_lens(lens, "lens", model).iterdir())
    ['config.json', 'params.pt']
    """
    if lens.kind not in AFFINE:
        raise InputError(
            f"A {lens.kind} cannot be written as tuned-lens does, which knows affine maps only: "
            "give a tuned, ridge or bias lens."
        )
    lens.require(model)
    width, state = model.d_model, {}
    for index, label in enumerate(_labels(model)):
        parts = [name for name in lens if name.rpartition(".")[0] == label]
        if not parts:
            raise InputError(
                f"This lens has no map for {label}, and tuned-lens needs one for 'embed' and after "
                "every block but the last: fit it with points=('embed', 'post')."
            )
        dtype = lens[parts[0]].dtype
        for part, shape in (("weight", (width, width)), ("bias", (width,))):
            name = f"{label}.{part}"
            state[f"{index}.{part}"] = (
                lens[name] if name in lens else torch.zeros(shape, dtype=dtype)
            )
    config = {
        "base_model_name_or_path": getattr(model.hf.config, "name_or_path", "") or model.name,
        "d_model": width,
        "num_hidden_layers": model.n_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": unembed_hash(model),
        "lens_type": LENS_TYPE,
    }
    place = as_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(place / PARAMS, content.getvalue())
    write_bytes(place / CONFIG, json.dumps(config).encode())
    return place


def unembed_hash(model: LensModel) -> str:
    """Hash of the head's matrix as that package takes it: of how NumPy prints it, short.

    Raises
    ------
    InputError
        The head is not one linear map.
    """
    matrix = model.head_matrix()
    if matrix is None:
        raise InputError(
            f"The head of {model.name} is not one linear map, which is all that tuned-lens knows."
        )
    return matrix_hash(matrix.weight.detach().float().cpu().numpy())


def matrix_hash(matrix: np.ndarray) -> str:
    """SHA-256 of a matrix as ``numpy.array_str(matrix, precision=1)`` prints it."""
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False):
        return hashlib.sha256(np.array_str(matrix, precision=1).encode()).hexdigest()


def _labels(model: LensModel) -> list[str]:
    """Labels of the points that have a map, in the order of that package."""
    return ["embed", *(f"{layer}_post" for layer in range(model.n_layers - 1))]


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(folder / CONFIG))
    except ValueError as error:
        raise ResultError(f"'{folder / CONFIG}' is not JSON, so it is damaged.") from error
    if not isinstance(found, dict) or found.get("lens_type", LENS_TYPE) != LENS_TYPE:
        raise InputError(f"'{folder}' holds no {LENS_TYPE}: give a folder that tuned-lens saved.")
    return found


def _require_fit(config: Mapping[str, Any], model: LensModel, *, force: bool) -> None:
    """Refuse a lens of a model of another size, and one of another head unless that is asked."""
    sizes = config.get("num_hidden_layers"), config.get("d_model")
    if sizes != (model.n_layers, model.d_model):
        raise InputError(
            f"This lens is for {sizes[0]} blocks of width {sizes[1]}, and {model.name} has "
            f"{model.n_layers} of {model.d_model}: give the model that it was trained for."
        )
    told = config.get("unembed_hash")
    if told is not None and not force and told != unembed_hash(model):
        raise InputError(
            f"This lens was trained for another head than that of {model.name}, as its hash says: "
            "give that model, or force=True."
        )


def _state(folder: Path) -> dict[str, Tensor]:
    content = io.BytesIO(read_bytes(folder / PARAMS))
    try:
        found = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ResultError(
            f"'{folder / PARAMS}' cannot be opened as tensors: it is damaged, or no file of "
            "tuned-lens."
        ) from error
    if not isinstance(found, Mapping):
        raise ResultError(f"'{folder / PARAMS}' holds no named tensors.")
    return dict(found)
