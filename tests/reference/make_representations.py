"""Write ``representations.json``: CKA, entropy and intrinsic dimension by other packages.

Run by hand, in an environment of its own (``pip install torch-cka==0.21 vendi-score
scikit-dimension==0.5.0``), whenever the numbers have to be made again; the tests only read the
file. Nothing of layerlens is used.

    python tests/reference/make_representations.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from skdim.id import TwoNN
from torch_cka import CKA
from vendi_score import vendi


def states(kind: str) -> np.ndarray:
    """Inputs that the test makes again, from NumPy's own generator."""
    random = np.random.default_rng(0)
    if kind == "gaussian":
        return random.normal(size=(300, 8))
    if kind == "curved":  # a Swiss roll in ten dimensions
        turn, height = random.uniform(1.5, 4.5, 400) * np.pi, random.uniform(0, 20, 400)
        roll = np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], -1)
        return roll @ random.normal(size=(3, 10))
    if kind == "clusters":
        return 5 * random.normal(size=(6, 30))[np.arange(300) % 6] + random.normal(size=(300, 30))
    raise ValueError(kind)


def hsic_ratio(rows: np.ndarray, others: np.ndarray, batch: int) -> float:
    """Debiased CKA from the package's own HSIC, averaged over batches before the ratio."""
    judge = CKA.__new__(CKA)  # its constructor wants two networks; HSIC uses the device alone
    judge.device = "cpu"
    torch.set_default_dtype(torch.float64)
    sums = np.zeros(3)
    for start in range(0, len(rows) - batch + 1, batch):
        cut = slice(start, start + batch)
        k, l = (torch.from_numpy(z[cut] @ z[cut].T).fill_diagonal_(0) for z in (rows, others))  # noqa: E741
        sums += [judge._HSIC(k, k), judge._HSIC(k, l), judge._HSIC(l, l)]
    return float(sums[1] / np.sqrt(sums[0] * sums[2]))


def main() -> None:
    gaussian, clusters = states("gaussian"), states("clusters")
    mixed = np.tanh(gaussian @ np.random.default_rng(1).normal(size=(8, 12)))
    found = {
        "made_by": {
            name: version(name) for name in ("torch-cka", "vendi-score", "scikit-dimension")
        },
        "cka": {
            str(batch): {
                "gaussian, mixed": hsic_ratio(gaussian, mixed, batch),
                "gaussian, clusters": hsic_ratio(gaussian, clusters, batch),
            }
            for batch in (300, 60)
        },
        "effective_rank": {
            kind: float(vendi.score_X(states(kind)[:100] - states(kind)[:100].mean(0)))
            for kind in ("gaussian", "curved", "clusters")
        },
        "intrinsic_dimension": {
            kind: float(TwoNN(discard_fraction=0.1).fit(states(kind)).dimension_)
            for kind in ("gaussian", "curved", "clusters")
        },
    }
    target = Path(__file__).with_name("representations.json")
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
