"""The trained end of the text side: LayerNorm and a linear map into the shared space."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sattxt.errors import WeightsError


class TextHead(nn.Module):
    """LayerNorm, then a linear map without bias: (N, in) pooled vectors to (N, out); not normalised."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(in_features)
        self.proj = nn.Linear(in_features, out_features, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        projected: Tensor = self.proj(self.ln(pooled))
        return projected

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> TextHead:
        """A float32 head, its sizes read from the tensors ``ln.weight``, ``ln.bias``, ``proj.weight``.

        Raises:
            WeightsError: a tensor is missing, superfluous, or does not fit the others.
        """
        weight = state.get("proj.weight")
        if weight is None or weight.ndim != 2:
            raise WeightsError("text head: the matrix proj.weight is missing")
        head = cls(int(weight.shape[1]), int(weight.shape[0]))
        try:
            head.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"text head: {' '.join(str(error).split())}") from error
        return head
