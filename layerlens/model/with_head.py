"""From states of the residual stream to logits, by the model's own norm and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import ModelError
from layerlens.model.anatomy import Anatomy, Pool
from layerlens.model.head import answering, apply, pooled
from layerlens.model.offloaded import brought
from layerlens.model.weights import is_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HeadMatrix:
    """A head that is one affine map: ``logits = cap((x @ weight.T + bias) * scale)``.

    Attributes
    ----------
    weight
        ``[vocabulary, width]``, the model's own parameter; where that is offloaded, what was read
        of it.
    bias
        ``[vocabulary]`` or None.
    scale
        What the product is multiplied with.
    softcap
        ``c`` of ``c * tanh(z / c)``, or None.
    widens
        The product is taken to float32 before scale and cap; else these round to its dtype.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    widens: bool = True


class WithHead:
    """What a model does with its head.

    Attributes
    ----------
    hf, anatomy, name
        As of a :class:`layerlens.model.lensmodel.LensModel`.
    """

    hf: PreTrainedModel
    anatomy: Anatomy
    name: str

    def _head(self) -> Any:
        if self.anatomy.head is None:
            raise ModelError(
                f"{self.name} has no language-model head, so nothing can be unembedded: load it "
                "with a class that has one, such as AutoModelForCausalLM."
            )
        return self.anatomy.head

    def head_input(self, resid: Tensor) -> Tensor:
        """What the head is given for these states: final norm, taken over each row itself.

        A head that answers once for all positions is given what it would be if every position
        held this state.

        Parameters
        ----------
        resid
            ``[..., d_model]``, states of the residual stream.

        Returns
        -------
        Tensor
            ``[..., width of the head]`` in the model's dtype.
        """
        head = self._head()
        if head.pool is not None:
            given = self._to_head(_everywhere(resid, 1 + head.pool.skipped))[:, 0]
            return given.reshape(*resid.shape[:-1], -1)
        return self._to_head(resid)

    def _to_head(self, resid: Tensor) -> Tensor:
        """What the head is given for all positions ``[batch, position, d_model]``."""
        head = self._head()
        for step, path in enumerate(head.chain):
            module = self.hf.get_submodule(path)
            resid = module(resid) if head.pool is None else _step(module, head.pool, step, resid)
        pool = head.pool
        if pool is not None and pool.at == len(head.chain) and pool.how != "within":
            resid = pooled(pool, resid)
        return resid if head.scale_in == 1 else resid * head.scale_in

    def answer(self, resid: Tensor) -> Tensor:
        """The model's logits for the states of whole inputs after its last block.

        Parameters
        ----------
        resid
            ``[batch, position, d_model]``.

        Returns
        -------
        Tensor
            ``[batch, position, vocabulary]`` float32; ``[batch, 1, class]`` of a head that
            answers once for all positions.
        """
        head = self._head()
        if head.pool is None:
            return self.unembed(resid)
        x, last = self._to_head(resid), len(head.chain)
        module = self.hf.get_submodule(head.head)
        z = answering(module, x) if _pools(head.pool, last) else module(x)
        if head.pool.at > last:
            z = pooled(head.pool, z)
        return self._finished(z)

    def _finished(self, z: Tensor) -> Tensor:
        """What the model makes of its head's output."""
        head = self._head()
        if head.offset is not None:
            z = z + self.hf.get_buffer(head.offset).reshape(-1)
        return apply(head.operations, z.float() if head.widens else z).float()

    def head(self, x: Tensor) -> Tensor:
        """Logits for what the head is given, scale and soft-cap included.

        Returns
        -------
        Tensor
            ``[..., vocabulary]`` float32.
        """
        anatomy = self._head()
        module = self.hf.get_submodule(anatomy.head)
        if _pools(anatomy.pool, len(anatomy.chain)):
            z = answering(module, _everywhere(x, 2)).reshape(*x.shape[:-1], -1)
        else:
            z = module(x)
        return self._finished(z)

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits ``[..., vocabulary]`` float32 of states ``[..., d_model]``."""
        return self.head(self.head_input(resid))

    def columns(self, resid: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits ``[n, token]`` float64 of some tokens, by the head's rows of these alone.

        Parameters
        ----------
        resid
            ``[n, d_model]``; gradients flow where they are recorded.

        Raises
        ------
        ModelError
            The head is not one affine map (:meth:`head_matrix`).
        """
        matrix = self.head_matrix()
        if matrix is None:
            raise ModelError(f"The head of {self.name} is not one affine map: use unembed.")
        work = torch.promote_types(torch.float32, matrix.weight.dtype)
        x = self.head_input(resid).to(device=matrix.weight.device, dtype=work)
        z = x @ matrix.weight[list(tokens)].to(work).t()
        if matrix.bias is not None:
            z = z + matrix.bias[list(tokens)].to(work)
        z = z * matrix.scale
        if matrix.softcap:
            z = torch.tanh(z / matrix.softcap) * matrix.softcap
        return z.double()

    def head_matrix(self) -> HeadMatrix | None:
        """The head as one affine map, or None where it is not plainly one."""
        anatomy = self._head()
        module = self.hf.get_submodule(anatomy.head)
        if type(module) is not nn.Linear:
            return None
        weight = brought(self.hf, f"{anatomy.head}.weight")
        if not is_dense(weight):
            return None
        bias = None if module.bias is None else brought(self.hf, f"{anatomy.head}.bias")
        scale, softcap = 1.0, None
        for operation, value in anatomy.operations:
            if softcap is not None:
                return None
            if operation == "cap":
                softcap = value
            else:
                scale = scale * value if operation == "multiply" else scale / value
        if anatomy.offset is not None:
            more = self.hf.get_buffer(anatomy.offset).reshape(-1)
            bias = more if bias is None else bias + more
        return HeadMatrix(weight, bias, scale, softcap, anatomy.widens)


def _everywhere(rows: Tensor, positions: int) -> Tensor:
    """``[n, position, width]``: inputs in which every position holds one of the rows."""
    return rows.reshape(-1, 1, rows.shape[-1]).expand(-1, positions, -1)


def _pools(pool: Pool | None, step: int) -> bool:
    """Whether the module of this step makes one row of all."""
    return pool is not None and pool.how == "within" and pool.at == step


def _step(module: nn.Module, pool: Pool, step: int, rows: Tensor) -> Tensor:
    """One module of a chain that pools ``[batch, position, width]`` somewhere."""
    if _pools(pool, step):
        return answering(module, rows)
    if pool.how != "within" and pool.at == step:
        rows = pooled(pool, rows)
    given: Tensor = module(rows)
    return given
