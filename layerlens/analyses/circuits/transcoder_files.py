"""Cross-layer transcoders as circuit-tracer keeps them: a folder of safetensors, read and written.

``W_enc_{i}.safetensors`` holds ``W_enc_{i} [m, d]``, ``b_enc_{i}``, ``b_dec_{i}`` and, of jumprelu
ones, ``threshold_{i}``; ``W_dec_{i}.safetensors`` holds ``W_dec_{i} [m, layers - i, d]``: what
features of layer ``i`` write into it and each later one. ``config.yaml`` says what they read.
Source: the circuit-tracer package (Hanna, Piotrowski, Lindsey and Ameisen, 2025).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from layerlens.analyses.circuits.recorded import norms_of_stream
from layerlens.analyses.contract.learning import imported
from layerlens.analyses.contributions.value_paths import Node
from layerlens.analyses.features.dictionaries.crossing import LATER
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, Form
from layerlens.errors import InputError, ResultError
from layerlens.result.files import as_path, read_bytes, write_bytes
from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.result.fitted import Fitted

CONFIG = "config.yaml"
READS: dict[str, tuple[str | None, str]] = {
    "hook_resid_mid": ("resid_mid", "none"),
    "hook_resid_pre": ("resid_pre", "none"),
    "ln2.hook_normalized": (None, "constant_norm_rescale"),
}
"""What is read, by its name there: our site (None: what the norm is given), how normalised."""
WRITES = "hook_mlp_out"
_READS = re.compile(r"^feature_input_hook:\s*['\"]?([\w.]+)", re.MULTILINE)
_FILE = re.compile(r"W_enc_(\d+)\.safetensors")


def export_transcoders(
    transcoders: Fitted, folder: str | os.PathLike[str], model: LensModel
) -> Path:
    """Write cross-layer transcoders of all layers as circuit-tracer opens them; return the folder.

    Parameters
    ----------
    transcoders
        Of ``ll.train_transcoder(..., layers="all", cross_layer=True)`` or `load_transcoders`, and
        of a kind that the files have: relu, jumprelu, or batchtopk, which is saved as that.
    folder
        Is made where it is not there.
    model
        The model that they belong to.

    Raises
    ------
    InputError
        They are of another model, of some layers alone, of another kind, have a path beside their
        features (which is not read from these files), or read what the files have no name for.
    ResultError
        A file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> learned = ll.train_transcoder(model, texts, layers="all", kind="batchtopk", size=2, k=4,
    ...                               test=0.25, batch=16, cross_layer=True)
    >>> sorted(file.name for file in ll.export_transcoders(learned, "clt", model).iterdir())[:2]
    ['W_dec_0.safetensors', 'W_dec_1.safetensors']
    >>> again = ll.load_transcoders("clt", model)
    >>> bool((again["W_dec_later"] == learned["W_dec_later"]).all())
    True
    """
    transcoders.require(model, "transcoder")
    layers = transcoders.options["layers"]
    if LATER not in transcoders or layers != list(range(model.n_layers)):
        raise InputError(
            "These files hold cross-layer transcoders of all layers: give what "
            "ll.train_transcoder(..., layers='all', cross_layer=True) returned."
        )
    each = [one.folded() for one in Dictionary.by_layer(transcoders).values()]
    form, reads = each[0].form, _reads(model, transcoders, each[0].form)
    if form.architecture not in ("relu", "jumprelu") or "W_skip" in transcoders:
        raise InputError(
            f"These are {form.architecture} transcoders"
            + (" with a path beside their features" if "W_skip" in transcoders else "")
            + ", which the files cannot say: learn with kind='relu', 'jumprelu' or 'batchtopk', "
            "and without skip."
        )
    place = as_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for layer, one in enumerate(each):
        encoder = {"W_enc": one["W_enc"].T, "b_enc": one["b_enc"], "b_dec": one["b_dec"]}
        if form.architecture == "jumprelu":
            encoder["threshold"] = one["threshold"]
        rows = torch.cat([one["W_dec"][None], one.later]).transpose(0, 1)
        _write(place, "W_enc", layer, encoder)
        _write(place, "W_dec", layer, {"W_dec": rows})
    told = {"model_name": model.name, "model_kind": "cross_layer_transcoder",
            "feature_input_hook": reads, "feature_output_hook": WRITES}  # fmt: skip
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in told.items())
    write_bytes(place / CONFIG, lines.encode())
    return place


def load_transcoders(
    folder: str | os.PathLike[str], model: LensModel, *, reads: str | None = None
) -> Fitted:
    """Open cross-layer transcoders that circuit-tracer can open.

    Parameters
    ----------
    folder
        With its ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``, a pair for each layer.
    model
        The model that they were learned on.
    reads
        What they read: ``"hook_resid_mid"``, ``"hook_resid_pre"``, or ``"ln2.hook_normalized"``,
        the state as an RMS norm divides it, before its gain. None: as ``config.yaml`` says.

    Returns
    -------
    Fitted
        Of kind ``"transcoder"``, in float32, as ``ll.feature_circuit`` takes it.

    Raises
    ------
    InputError
        They are of a model of another size, or it is not said what they read, or that is not ours.
    ResultError
        A file cannot be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> learned = ll.train_transcoder(model, texts, layers="all", kind="batchtopk", size=2, k=4,
    ...                               test=0.25, batch=16, cross_layer=True)
    >>> again = ll.load_transcoders(ll.export_transcoders(learned, "clt", model), model)
    >>> again.options["site"], again.options["dictionary"]["normalise"]
    ('resid_mid', 'constant_norm_rescale')
    """
    place = as_path(folder)
    said = _said(place) if reads is None else reads
    if said not in READS:
        raise InputError(
            f"What these transcoders read is {said!r}; give reads= as one of {', '.join(READS)}."
        )
    site, normalise = READS[said]
    if normalise != "none":
        _require_rms(model)
    numbers = sorted(int(m[1]) for file in place.glob("W_enc_*") if (m := _FILE.match(file.name)))
    if numbers != list(range(model.n_layers)):
        raise InputError(
            f"'{place}' has transcoders of layers {numbers} and {model.name} has "
            f"{model.n_layers} layers: expected a pair of files for each."
        )
    parts: dict[str, list[Tensor]] = {}
    for layer in numbers:
        for name, array in _layer(place, layer, model).items():
            parts.setdefault(name, []).append(array)
    later = torch.cat(parts.pop(LATER))
    arrays = {name: torch.stack(each) for name, each in parts.items()} | {LATER: later}
    kind = "jumprelu" if "threshold" in arrays else "relu"
    form = Form(kind, normalise=normalise, centred_input=False, only_in=True)
    options = {
        "site": site or Node(0, mlp=True).reads(model).kind, "site_out": "mlp_out",
        "layers": numbers, "positions_skipped": 1, "dictionary": form.told(),
    }  # fmt: skip
    told = "" if reads is None else f", reads={reads!r}"
    call = f"ll.load_transcoders({str(place)!r}, model{told})"
    return imported("transcoder", arrays, model, {"reads": said}, call=call, options=options)


def _reads(model: LensModel, transcoders: Fitted, form: Form) -> str:
    """What is read, by its name in these files."""
    site = transcoders.options["site"]
    if form.normalise == "constant_norm_rescale":
        _require_rms(model)
        return "ln2.hook_normalized"
    for name, known in READS.items():
        if known == (site, form.normalise):
            return name
    raise InputError(
        f"These transcoders read {site} normalised by {form.normalise!r}, which the files have no "
        "name for."
    )


def _require_rms(model: LensModel) -> None:
    """Refuse a model whose norms take the mean off: what they give is not what ours read."""
    zero = torch.zeros(model.d_model, device=model.device, dtype=model.dtype)
    for path, norm in norms_of_stream(model).items():
        if measure_norm(model, norm, zero)[2]:
            raise InputError(
                f"{path} of {model.name} takes the mean off, so that ln2.hook_normalized is not "
                "what transcoders of ours read: only models with RMS norms have it."
            )


def _said(place: Path) -> str:
    """What ``config.yaml`` says is read; only that line of it is looked at."""
    path = place / CONFIG
    found = _READS.search(read_bytes(path).decode()) if path.is_file() else None
    if found is None:
        raise InputError(f"'{place}' does not say what its transcoders read: give reads=.")
    return found[1]


def _layer(place: Path, layer: int, model: LensModel) -> dict[str, Tensor]:
    """The arrays of a layer, as :class:`Dictionary` takes them."""
    encoder, decoder = (_read(place, kind, layer) for kind in ("W_enc", "W_dec"))
    if lack := [name for name in ("W_enc", "b_enc", "b_dec") if name not in encoder]:
        raise InputError(f"'{place}' lacks {', '.join(lack)} of layer {layer}.")
    if "W_dec" not in decoder:
        raise InputError(f"'{place}' lacks W_dec of layer {layer}.")
    rows = decoder["W_dec"].float()
    wanted = (len(encoder["b_enc"]), model.n_layers - layer, model.d_model)
    if tuple(rows.shape) != wanted:
        raise InputError(
            f"W_dec of layer {layer} in '{place}' is {list(rows.shape)}; of {model.name} expected "
            f"{list(wanted)}."
        )
    own, later = rows[:, 0].contiguous(), rows[:, 1:].transpose(0, 1).contiguous()
    found = {name: array.float() for name, array in encoder.items()}
    return found | {"W_enc": found["W_enc"].T.contiguous(), "W_dec": own, LATER: later}


def _write(place: Path, kind: str, layer: int, arrays: dict[str, Tensor]) -> None:
    named = {f"{name}_{layer}": array.contiguous() for name, array in arrays.items()}
    write_bytes(place / f"{kind}_{layer}.safetensors", save(named))


def _read(place: Path, kind: str, layer: int) -> dict[str, Tensor]:
    path = place / f"{kind}_{layer}.safetensors"
    try:
        found = load(read_bytes(path))
    except SafetensorError as error:
        raise ResultError(f"'{path}' is not a safetensors file, or it is damaged.") from error
    return {name.removesuffix(f"_{layer}"): array for name, array in found.items()}
