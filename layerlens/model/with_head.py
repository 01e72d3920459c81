"""From states of the residual stream to logits, by the model's own norm and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from layerlens.errors import ModelError
from layerlens.model.anatomy import Anatomy
from layerlens.model.head import apply
from layerlens.model.weights import is_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HeadMatrix:
    """A head that is one affine map: ``logits = cap((x @ weight.T + bias) * scale)``.

    Attributes
    ----------
    weight
        ``[vocabulary, width]``, the model's own parameter.
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
        for path in head.chain:
            resid = self.hf.get_submodule(path)(resid)
        return resid if head.scale_in == 1 else resid * head.scale_in

    def head(self, x: Tensor) -> Tensor:
        """Logits for what the head is given, scale and soft-cap included.

        Returns
        -------
        Tensor
            ``[..., vocabulary]`` float32.
        """
        anatomy = self._head()
        z = self.hf.get_submodule(anatomy.head)(x)
        return apply(anatomy.operations, z.float() if anatomy.widens else z).float()

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits ``[..., vocabulary]`` float32 of states ``[..., d_model]``."""
        return self.head(self.head_input(resid))

    def head_matrix(self) -> HeadMatrix | None:
        """The head as one affine map, or None where it is not plainly one."""
        anatomy = self._head()
        module = self.hf.get_submodule(anatomy.head)
        weight = getattr(module, "weight", None)
        if type(module) is not nn.Linear or weight is None or not is_dense(weight):
            return None
        scale, softcap = 1.0, None
        for operation, value in anatomy.operations:
            if softcap is not None:
                return None
            if operation == "cap":
                softcap = value
            else:
                scale = scale * value if operation == "multiply" else scale / value
        return HeadMatrix(weight, module.bias, scale, softcap, anatomy.widens)
