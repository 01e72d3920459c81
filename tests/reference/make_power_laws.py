"""Write ``power_laws.json``: exponents that the package powerlaw fits to the default model.

Run by hand, in an environment of its own (``pip install powerlaw==1.5 safetensors``), whenever
the numbers have to be made again; the tests only read the file. Nothing of layerlens is used:
eigenvalues are squares of numpy's singular values.

    python tests/reference/make_power_laws.py FOLDER_OF_THE_DEFAULT_MODEL
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import powerlaw
from safetensors import safe_open

LAYERS = (0, 7, 15, 22, 29)
PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "down": "mlp.down_proj",
}


def main(folder: str) -> None:
    fits = {}
    with safe_open(Path(folder) / "model.safetensors", framework="numpy") as weights:
        for layer in LAYERS:
            for name, path in PROJECTIONS.items():
                weight = weights.get_tensor(f"model.layers.{layer}.{path}.weight")
                fits[f"{layer}.{name}"] = _fit(np.linalg.svd(weight.astype(float))[1] ** 2)
    rng = np.random.default_rng(0)
    drawn = {
        "pareto 2.5": _fit((1 - rng.random(2000)) ** (-1 / 1.5)),
        "pareto 4": _fit((1 - rng.random(2000)) ** (-1 / 3)),
        "lognormal": _fit(rng.lognormal(size=2000)),
    }
    result = {"made_by": "powerlaw 1.5", "fits": fits, "drawn": drawn}
    target = Path(__file__).with_name("power_laws.json")
    target.write_text(json.dumps(result, indent=1) + "\n")


def _fit(values: np.ndarray) -> dict[str, float]:
    fit = powerlaw.Fit(values, verbose=False)
    found = {"alpha": fit.power_law.alpha, "xmin": fit.power_law.xmin, "distance": fit.power_law.D}
    return {name: round(float(value), 8) for name, value in found.items()}


if __name__ == "__main__":
    main(sys.argv[1])
