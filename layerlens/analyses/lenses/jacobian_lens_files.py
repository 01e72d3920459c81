"""Jacobian lenses as they are published: read from one file of torch, and written as such."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.learning import imported
from layerlens.errors import InputError, ResultError
from layerlens.result.files import as_path, read_bytes, write_bytes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.result.fitted import Fitted

KIND = "jacobian_lens"


def import_jacobian_lens(
    path: str | os.PathLike[str], model: LensModel, *, force: bool = False
) -> Fitted:
    """Open a Jacobian lens that the ``jacobian-lens`` package (Anthropic) saved.

    Its matrix ``l`` reads the output of block ``l``, counted from 0, which is the point
    ``"<l>_post"``. The file says nothing of the weights that it was fitted on: size and depth are
    compared, and the name of the model where the file has it. A fit that was not finished is
    divided by the number of its prompts, and is not ``complete``.

    Parameters
    ----------
    path
        The file, such as ``Model_jacobian_lens.pt``.
    model
        The model that it was fitted on, read with the same tokens in front of a text.
    force
        Take it although the file names another model.

    Returns
    -------
    Fitted
        Of kind ``"jacobian_lens"``, in float32.

    Raises
    ------
    InputError
        It is no Jacobian lens, or one of another model.
    ResultError
        The file cannot be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts, kind="jacobian", points="post", positions_skipped=2)
    >>> again = ll.import_jacobian_lens(ll.export_jacobian_lens(lens, "lens.pt", model), model)
    >>> bool((again["0_post.jacobian"] - lens["0_post.jacobian"]).abs().max() < 0.01)
    True
    """
    place = as_path(path)
    told = _told(place)
    finished = "J" in told
    prompts = _number(place, told, "n_prompts" if finished else "n_done")
    given = told["J"] if finished else told.get("jacobian_sum")
    if not isinstance(given, Mapping) or not given or prompts < 1:
        raise InputError(
            f"'{place}' holds no matrices 'J' of any prompt: give a file that jacobian-lens saved."
        )
    about = told.get("metadata") or {}
    _require_fit(place, given, model)
    name = about.get("model_name")
    if not force and name not in (None, model.name, model.hf.config.name_or_path):
        raise InputError(
            f"This lens was fitted on {name!r}, and this model is {model.name!r}: give that model, "
            "or force=True if both are the same."
        )
    divisor = 1 if finished else prompts
    arrays = {f"{layer}_post.jacobian": given[layer].float() / divisor for layer in sorted(given)}
    return imported(
        KIND,
        arrays,
        model,
        {key: str(value) for key, value in dict(about).items()},
        call=f"ll.import_jacobian_lens({str(place)!r}, model{', force=True' * force})",
        scores={"train": {"prompts": float(prompts)}},
        complete=finished,
    )


def export_jacobian_lens(lens: Fitted, path: str | os.PathLike[str], model: LensModel) -> Path:
    """Write a lens as the ``jacobian-lens`` package opens it, in float16; return the file.

    Parameters
    ----------
    lens
        A Jacobian lens of outputs of blocks, with ``reduction="future"``.
    path
        Of the file.
    model
        The model that it was fitted on.

    Raises
    ------
    InputError
        It is no such lens, or a number is too large for float16.
    ResultError
        The file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts, kind="jacobian", points="post", positions_skipped=2)
    >>> ll.export_jacobian_lens(lens, "lens.pt", model).name
    'lens.pt'
    """
    lens.require(model, KIND)
    labels = [name.rpartition(".")[0] for name in lens]
    if other := [label for label in labels if not label.endswith("_post")]:
        raise InputError(
            f"A file of jacobian-lens holds outputs of blocks only, not {', '.join(other)}: fit "
            "the lens with points='post'."
        )
    if lens.options.get("reduction", "future") != "future":
        raise InputError(
            "A file of jacobian-lens holds sums over later positions, and this lens was fitted "
            "with reduction='self': fit it with 'future'."
        )
    matrices = {int(label.split("_")[0]): lens[f"{label}.jacobian"].half() for label in labels}
    if not all(bool(torch.isfinite(matrix).all()) for matrix in matrices.values()):
        raise InputError("A number of this lens is too large for float16, which the file holds.")
    content = io.BytesIO()
    torch.save(
        {
            "J": matrices,
            "n_prompts": int(lens.scores["train"]["prompts"]),
            "source_layers": sorted(matrices),
            "d_model": model.d_model,
            "metadata": {"model_name": model.name, "target_layer": model.n_layers - 1},
        },
        content,
    )
    return write_bytes(as_path(path), content.getvalue())


def _told(place: Path) -> dict[str, Any]:
    try:
        found = torch.load(io.BytesIO(read_bytes(place)), map_location="cpu", weights_only=True)
    except ResultError:
        raise
    except Exception as error:
        raise ResultError(
            f"'{place}' cannot be opened as tensors: it is damaged, or no file of jacobian-lens."
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(f"'{place}' is no file of jacobian-lens: it holds no named tensors.")
    return dict(found)


def _number(place: Path, told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if not isinstance(value, int):
        raise InputError(f"'{place}' is no file of jacobian-lens: it lacks the number {name}.")
    return value


def _require_fit(place: Path, given: Mapping[int, Tensor], model: LensModel) -> None:
    """Refuse a lens of a model of another size, and one that reads something else."""
    depth, width = model.n_layers, model.d_model
    wrong = [
        layer
        for layer, matrix in given.items()
        if not isinstance(layer, int) or tuple(getattr(matrix, "shape", ())) != (width, width)
    ]
    if wrong or not all(0 <= layer < depth for layer in given):
        raise InputError(
            f"'{place}' has matrices for layers {sorted(map(str, given))} that do not all fit "
            f"{model.name}, which has {depth} blocks of width {width}: give the model that it was "
            "fitted on."
        )
    if depth - 1 in given:
        raise InputError(
            f"'{place}' has a matrix for the last of {depth} blocks, whose output needs none: it "
            "was fitted elsewhere than at outputs of blocks, or on a deeper model."
        )
