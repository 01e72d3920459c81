"""Dictionaries as they are published: opened from other packages' files, and written as such."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from layerlens.analyses.contract.learning import imported
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.dictionaries.foreign import (
    CONFIG,
    SPARSITY,
    WEIGHTS,
    Foreign,
    read_npz,
    read_sae_lens,
)
from layerlens.analyses.features.toy_sae import load_toy_sae
from layerlens.errors import InputError
from layerlens.model.sites import parse_site
from layerlens.model.toys import PREFIX
from layerlens.result.files import as_path, write_bytes
from layerlens.result.fitted import Fitted

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

HOOKS = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "z": "attn.hook_z",
}  # fmt: skip
ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}


def load_sae(
    path: str | os.PathLike[str],
    model: LensModel,
    *,
    site: str | None = None,
    layer: int | None = None,
    scale: float | None = None,
    centred: bool | None = None,
) -> Fitted:
    """Open a sparse autoencoder or a transcoder that SAELens or Gemma Scope saved.

    Of SAELens (every version so far) all kinds are read that are an affine map and a threshold:
    standard, gated, topk, jumprelu (which batchtopk ones are saved as) and their transcoders;
    ``temporal``, ``matching_pursuit`` and ``abstopk`` are refused.

    Parameters
    ----------
    path
        The folder with its ``cfg.json`` and ``sae_weights.safetensors``, or a ``params.npz``; or
        ``"toy:addition"``, for the dictionary that is shipped with the toy of that name.
    model
        The model that it was trained on.
    site, layer
        What it reads, where the file does not say; an ``.npz`` never does.
    scale
        The factor by which activations were multiplied in training, where it is not in the
        weights: SAELens's ``expected_average_only_in``.
    centred
        Whether it was trained on a model whose writing weights were centred, so that the mean over
        its entries is taken from each activation. None: as the file says; those that SAELens lists
        as ``gpt2-small-res-jb`` and ``gpt2-small-mlp-tm`` were and do not say so.

    Returns
    -------
    Fitted
        Of kind ``"sae"`` or ``"transcoder"``, in float32.

    Raises
    ------
    InputError
        It is of another kind, for a model of another width, or the file does not say what it
        reads.
    ResultError
        A file cannot be read.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> again = ll.load_sae(ll.export_sae(sae, "sae", model), model)
    >>> bool((again["W_dec"] == sae["W_dec"]).all()), again.options["layers"]
    (True, [0])

    One is shipped with a toy:

    >>> adds = ll.load("toy:addition")
    >>> shipped = ll.load_sae("toy:addition", adds)
    >>> list(shipped["W_dec"].shape), ll.features(adds, "478+354=0", shipped, k=4).checks.ok
    ([384, 96], True)
    """
    given = {"site": site, "layer": layer, "scale": scale, "centred": centred}
    told = {name: one for name, one in given.items() if one is not None}
    if str(path).startswith(PREFIX):
        if told:
            raise InputError(f"'{path}' says itself what it reads: leave out {', '.join(told)}.")
        return load_toy_sae(str(path), model)
    place = as_path(path)
    if place.suffix == ".npz":
        found = read_npz(place)
    else:
        found = read_sae_lens(place, scale, centred=centred)
    places = _places(place, found, model, site, layer)
    dictionary = Dictionary(found.form, found.arrays)
    if dictionary.width != places.width:
        raise InputError(
            f"'{place}' reads activations of width {dictionary.width}, and {places.sites[0]} of "
            f"{model.name} has {places.width}: give the model that it was trained on."
        )
    options: dict[str, Any] = {"site": places.sites[0].kind, "layers": places.layers}
    options |= {"positions_skipped": places.skipped, "dictionary": found.form.told()}
    if found.transcoder:
        if not found.writes:
            raise InputError(f"'{place}' is a transcoder, and does not say what it writes.")
        options["site_out"] = str(parse_site(found.writes))
    said = "".join(f", {name}={one!r}" for name, one in told.items())
    return imported(
        "transcoder" if found.transcoder else "sae",
        {name: array.contiguous() for name, array in dictionary.arrays.items()},
        model,
        found.config,
        call=f"ll.load_sae({str(place)!r}, model{said})",
        options=options,
    )


def _places(
    path: Path, found: Foreign, model: LensModel, site: str | None, layer: int | None
) -> Places:
    said = parse_site(found.reads) if found.reads else None
    kind = site if site is not None else said.kind if said else None
    number = layer if layer is not None else said.layer if said else None
    if kind is None or number is None:
        raise InputError(f"'{path}' does not say what it reads: give site= and layer=.")
    bos = found.config.get("metadata", found.config).get("prepend_bos", True)
    return Places.of(model, kind, number, int(bool(bos)))


def export_sae(sae: Fitted, folder: str | os.PathLike[str], model: LensModel) -> Path:
    """Write a sparse autoencoder as SAELens (6) opens it; return the folder.

    Parameters
    ----------
    sae
        From ``ll.train_sae`` or ``ll.load_sae``, of one layer.
    folder
        Is made where it is not there.
    model
        The model that it belongs to.

    Raises
    ------
    InputError
        It is of several layers or of another model, or of a site that SAELens has no name for.
    ResultError
        A file could not be written.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> sorted(file.name for file in ll.export_sae(sae, "sae", model).iterdir())
    ['cfg.json', 'sae_weights.safetensors', 'sparsity.safetensors']
    """
    sae.require(model, "sae")
    layers, site = sae.options["layers"], sae.options["site"]
    if len(layers) != 1 or site not in HOOKS:
        raise InputError(
            f"This dictionary reads {site} of layers {layers}; SAELens has a name for one layer of "
            f"{', '.join(HOOKS)}."
        )
    dictionary = Dictionary.of(sae).folded()
    form, place = dictionary.form, as_path(folder)
    config = {
        "architecture": ARCHITECTURES[form.architecture],
        "d_in": dictionary.width,
        "d_sae": dictionary.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": form.centred_input,
        "normalize_activations": form.normalise,
        "reshape_activations": "hook_z" if site == "z" else "none",
        "metadata": {
            "model_name": model.name,
            "hook_name": f"blocks.{layers[0]}.{HOOKS[site]}",
            "hook_head_index": None,
            "prepend_bos": bool(sae.options["positions_skipped"]),
            "model_from_pretrained_kwargs": {"center_writing_weights": form.token_centred},
        },
    }
    if form.architecture == "topk":
        config |= {"k": form.k, "rescale_acts_by_decoder_norm": False}
    arrays = {name: one.contiguous() for name, one in dictionary.arrays.items()}
    density = arrays.pop("density", None)
    place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / CONFIG, json.dumps(config, indent=2).encode())
    write_bytes(place / WEIGHTS, save(arrays))
    if density is not None:
        logs = (density.double() + 1e-10).log10().to(torch.float32)
        write_bytes(place / SPARSITY, save({"sparsity": logs}))
    return place
