"""Make `sae_lens/`: dictionaries that SAELens saved, and what it computes with them.

Run it where ``sae-lens`` is installed, which layerlens and its tests do not need:

    python tests/reference/make_sae_lens.py

Each folder is what ``sae.save_model`` writes; ``numbers.safetensors`` beside it holds activations
``x``, the features ``f`` and what is decoded, ``y``.
"""

from __future__ import annotations

import json
from pathlib import Path

import sae_lens
import torch
from sae_lens.registry import get_sae_class
from safetensors.torch import save_file

HERE = Path(__file__).parent / "sae_lens"
WIDTH, FEATURES = 64, 24
ARCHITECTURES = (
    "standard", "gated", "topk", "jumprelu", "transcoder", "skip_transcoder",
    "jumprelu_transcoder", "jumprelu_skip_transcoder",
)  # fmt: skip
NORMALISATIONS = ("none", "constant_norm_rescale", "layer_norm")


def make(
    architecture: str,
    normalise: str,
    *,
    subtract: bool,
    rescale: bool = False,
    hook_z: bool = False,
) -> None:
    """Save one dictionary of random weights and what comes of random activations."""
    cls, config = get_sae_class(architecture)
    more = {"k": 5, "rescale_acts_by_decoder_norm": rescale} if architecture == "topk" else {}
    if "transcoder" in architecture:
        more |= {"d_out": WIDTH}
    sae = cls(
        config(
            d_in=WIDTH,
            d_sae=FEATURES,
            normalize_activations=normalise,
            apply_b_dec_to_input=subtract,
            reshape_activations="hook_z" if hook_z else "none",
            **more,
        )
    )
    hook = "attn.hook_z" if hook_z else "hook_resid_post"
    sae.cfg.metadata.hook_name = f"blocks.1.{hook}"
    sae.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    sae.cfg.metadata.prepend_bos = True
    drawn = torch.Generator().manual_seed(len(architecture) + len(normalise))
    with torch.no_grad():
        for name, one in sae.named_parameters():
            one.copy_(torch.randn(one.shape, generator=drawn) * (0.3 if one.dim() == 2 else 0.2))
            if name == "threshold":
                one.abs_()
    name = f"{architecture}-{normalise}-{int(subtract)}{int(rescale)}{int(hook_z)}"
    folder = HERE / name
    sae.save_model(folder)
    x = torch.randn(6, WIDTH, generator=drawn)
    with torch.no_grad():
        given = x.reshape(6, 4, -1) if hook_z else x
        f = sae.encode(given)
        y = sae(given).reshape(6, -1)
    save_file({"x": x, "f": f.contiguous(), "y": y.contiguous()}, folder / "numbers.safetensors")


def main() -> None:
    """Make all of them."""
    torch.manual_seed(0)
    for architecture in ARCHITECTURES:
        make(architecture, "none", subtract="transcoder" not in architecture)
    for normalise in NORMALISATIONS[1:]:
        make("standard", normalise, subtract=True)
        make("gated", normalise, subtract=False)
    make("topk", "none", subtract=False, rescale=True)
    make("standard", "none", subtract=True, hook_z=True)
    about = {"sae_lens": sae_lens.__version__, "torch": torch.__version__}
    (HERE / "versions.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
