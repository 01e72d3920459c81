"""The weight matrices of a block by what they do: q, k, v, o, gate, up, down.

Names come from the anatomy (the attention's output projection, the MLP's last), from what
families call their modules, and, for matrices that hold several in one, from one token: the rows
that give the model's own q, k, v or the activation's input are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from layerlens.model.adapters import adapted, embedded
from layerlens.model.matrices import Matrix, matrices
from layerlens.model.offloaded import brought
from layerlens.model.sites import Site
from layerlens.model.weights import is_dense
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.anatomy import BlockAnatomy
    from layerlens.model.lensmodel import LensModel

ORDER = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
"""Names that nearly all families share, in this order; others follow as they come."""

_CALLED = {
    "q": "q_proj query q_lin wq",
    "k": "k_proj key k_lin wk",
    "v": "v_proj value v_lin wv",
    "gate": "gate_proj w1 wi_0 c_fc_0",
    "up": "up_proj c_fc fc1 fc_in dense_h_to_4h lin1 w3 wi_1 wi c_fc_1",
    "down": "down_proj c_proj fc2 fc_out dense_4h_to_h lin2 w2 wo",
    "o": "o_proj out_proj dense out_lin",
    "gate_up": "gate_up_proj",
    "qkv": "qkv_proj query_key_value c_attn Wqkv",
}
_NAMES = {called: name for name, words in _CALLED.items() for called in words.split()}
FUSED: tuple[str, ...] = ("qkv", "gate_up")
_ALIKE = 1e-3
"""Relative difference up to which rows are those that the model uses."""

_ROWS: WeakKeyDictionary[LensModel, dict[int, dict[str, dict[str, Tensor]]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Projection:
    """What one or, in a mixture of experts, several matrices do in a block.

    Attributes
    ----------
    name
        One of `ORDER`, ``experts.down`` and such for experts, ``shared.up`` for those that
        always run, else the path of the module in the block.
    matrices
        Those that hold it.
    rows
        Which of their output channels are its own; None for all.
    """

    name: str
    matrices: tuple[Matrix, ...]
    rows: Tensor | None = None

    @property
    def weights(self) -> list[Tensor]:
        """``[out, in]`` each, one but for experts: views of the model's own, or copied rows."""
        found: list[Tensor] = []
        for matrix in self.matrices:
            weight = matrix.weight.detach()
            parts = weight.unbind(0) if weight.dim() == 3 else (weight,)
            found += parts if self.rows is None else [part[self.rows] for part in parts]
        return found


def projections(model: LensModel, layer: int) -> list[Projection]:
    """The projections of a block, those of `ORDER` first.

    Runs one token through the model if a matrix holds several projections.

    Raises
    ------
    InputError
        When weights are quantised or not in memory.
    """
    block = model.anatomy.blocks[layer]
    groups: dict[str, list[Matrix]] = {}
    for matrix in matrices(model, layer):
        groups.setdefault(re.sub(r"\.\d+(?=\.|$)", "", matrix.name), []).append(matrix)
    found: dict[str, Projection] = {}
    for path, group in groups.items():
        name = _name(block, path, group)
        name = path if name in found else name
        found[name] = Projection(name, tuple(group))
    fused = {name: found[name].matrices[0].name for name in FUSED if name in found}
    for name, parts in (_rows(model, layer, fused) if fused else {}).items():
        whole = found.pop(name).matrices
        found |= {part: Projection(part, whole, rows) for part, rows in parts.items()}
    place = {name: number for number, name in enumerate(ORDER)}
    return sorted(found.values(), key=lambda part: place.get(part.name, len(ORDER)))


def embeddings(model: LensModel) -> dict[str, Tensor]:
    """``embed`` and ``unembed``, ``[vocabulary, d]``; tied ones once, as ``embed``."""
    own = model.hf.get_submodule(model.anatomy.embedding)
    found = {"embed": _numbers(own, embedded(own))}
    if model.anatomy.head is not None:
        module = model.hf.get_submodule(model.anatomy.head.head)
        layer = adapted(module)
        head = getattr(module, "weight", None) if layer is None else layer.matrix()
        if head is not None and not _tied(found["embed"], head := _numbers(module, head)):
            found["unembed"] = head
    return {
        name: weight.detach()
        for name, weight in found.items()
        if isinstance(weight, Tensor) and is_dense(weight) and weight.dim() == 2
    }


def _numbers(module: nn.Module, weight: Any) -> Any:
    """A module's weight, read from where it is kept if it is offloaded."""
    if isinstance(weight, Tensor) and weight.is_meta:
        return brought(module, "weight")
    return weight


def _tied(one: Any, other: Any) -> bool:
    """Whether two are one weight; what was read twice, from a disk, is told by its numbers."""
    if one is other:
        return True
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    apart = both and not (isinstance(one, nn.Parameter) and isinstance(other, nn.Parameter))
    return apart and one.shape == other.shape and torch.equal(one, other.to(one.device))


def _name(block: BlockAnatomy, path: str, group: Sequence[Matrix]) -> str:
    """What the matrices at a path do."""
    whole = f"{block.path}.{path}"
    down = block.taps.get("mlp_post")
    if whole == block.out_proj:
        return "o"
    if down is not None and whole == down.module:
        return "down"
    *above, last = path.split(".")
    name = _NAMES.get(last, path)
    if len(group) > 1 or group[0].stacked:
        return f"experts.{_NAMES.get(last, last)}"
    if any("shared" in part for part in above):
        return f"shared.{_NAMES.get(last, last)}"
    # Names of an attention mean nothing in an MLP, and the other way round.
    inside = block.mixer is not None and whole.startswith(f"{block.mixer}.")
    return name if inside == (name in ("q", "k", "v", "qkv", "o")) else path


def _rows(model: LensModel, layer: int, fused: dict[str, str]) -> dict[str, dict[str, Tensor]]:
    """Rows of the projections in each fused matrix that could be told apart; found once."""
    known = _ROWS.setdefault(model, {})
    if layer not in known:
        seen = _Seen(model, layer, fused)
        known[layer] = {name: rows for name in fused if (rows := seen.split(name))}
    return known[layer]


class _Seen:
    """What the fused matrices of a block and its sites give for one token.

    Parameters
    ----------
    fused
        ``qkv`` or ``gate_up`` -> path of the module in the block.
    """

    def __init__(self, model: LensModel, layer: int, fused: dict[str, str]) -> None:
        self._block = model.anatomy.blocks[layer]
        self._given: dict[str, Tensor] = {}
        self._sites: dict[str, Tensor] = {}
        kinds = (*self._block.scored, "v") if "qkv" in fused and self._block.attention else ()
        if "gate_up" in fused and "mlp_pre" in self._block.taps:
            kinds = (*kinds, "mlp_pre")
        with ExitStack() as stack:
            for name, path in fused.items():
                module = model.hf.get_submodule(f"{self._block.path}.{path}")
                stack.callback(module.register_forward_hook(self._keep(name)).remove)
            stack.enter_context(model.running())
            # At position 0 rotary embeddings change nothing but the scale.
            tokens = model.tokens([model.d_vocab_in // 2])
            forward(model, tokens, [Site(kind, layer) for kind in kinds], self._see, logits="last")

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> None:
            self._given[name] = output.detach().flatten().double().cpu()

        return hook

    def _see(self, site: Site, value: Tensor) -> None:
        self._sites[site.kind.removeprefix("rot_")] = value[0, 0].double().cpu()

    def split(self, name: str) -> dict[str, Tensor]:
        """The rows of each projection; empty where they cannot be told apart."""
        if name not in self._given:
            return {}
        return self._qkv() if name == "qkv" else self._gate_up()

    def _gate_up(self) -> dict[str, Tensor]:
        """Gate and up are halves, or take turns."""
        rows = torch.arange(len(self._given["gate_up"]))
        layouts = (rows.view(2, -1), rows.view(-1, 2).T) if len(rows) % 2 == 0 else ()
        for first, second in layouts:
            for gate, up in ((first, second), (second, first)):
                if "mlp_pre" in self._sites and self._same("gate_up", gate, "mlp_pre"):
                    return {"gate": gate, "up": up}
        return {}

    def _qkv(self) -> dict[str, Tensor]:
        """The layout, of those in use, whose v is the model's own, and q and k up to a scale."""
        given, block = self._given["qkv"], self._block
        if not {"q", "k", "v"} <= self._sites.keys():
            return {}
        sizes = {kind: self._sites[kind].numel() for kind in ("q", "k", "v")}
        if sum(sizes.values()) != len(given):
            return {}
        # All of q, then k, then v; or so for each key-value head; or in four parts (CodeGen).
        for parts in dict.fromkeys((1, block.n_kv_heads, 4)):
            if any(size % parts for size in sizes.values()):
                continue
            rows = torch.arange(len(given)).view(parts, -1)
            for order in permutations(sizes):
                pieces = rows.split([sizes[kind] // parts for kind in order], dim=1)
                found = {kind: piece.flatten() for kind, piece in zip(order, pieces, strict=True)}
                if self._same("qkv", found["v"], "v") and all(
                    self._along("qkv", found[kind], kind) for kind in ("q", "k")
                ):
                    return {kind: found[kind] for kind in ("q", "k", "v")}
        return {}

    def _same(self, name: str, rows: Tensor, kind: str) -> bool:
        mine, site = self._given[name][rows], self._sites[kind].flatten()
        if len(mine) != len(site):
            return False
        return bool((mine - site).norm() <= _ALIKE * site.norm())

    def _along(self, name: str, rows: Tensor, kind: str) -> bool:
        mine, site = self._given[name][rows], self._sites[kind].flatten()
        return float(torch.cosine_similarity(mine, site, dim=0)) >= 1 - _ALIKE
