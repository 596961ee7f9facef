"""BERT as an encoder of short texts, for inference only.

Written here rather than taken from ``transformers`` because importing the latter's models takes two seconds, which is
more than all the rest of a first answer. State-dict keys are those of ``transformers.BertModel`` without its pooler,
and the values agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.config import build
from sattxt.errors import WeightsError
from sattxt.vision.attention import attention


@dataclass(frozen=True)
class BertSizes:
    """What of a BERT's config.json decides its shape."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @classmethod
    def from_dict(cls, described: Mapping[str, Any], where: str) -> BertSizes:
        """Read a transformers config.json.

        Raises:
            WeightsError: it is no BERT, lacks a size, or asks for a variant that is not implemented here.
        """
        for key, supported in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            default = None if key == "model_type" else supported
            if (described.get(key) or default) != supported:
                raise WeightsError(f"{where}: {key} is {described.get(key)!r}; {supported!r} is needed")
        sizes = build(cls, {k: described[k] for k in cls.__dataclass_fields__ if described.get(k) is not None}, where)
        if sizes.hidden_size % sizes.num_attention_heads:
            raise WeightsError(f"{where}: hidden_size is no multiple of num_attention_heads")
        return sizes


class _Linear(nn.Linear):
    """Left as allocated: a stored weight takes its place."""

    def reset_parameters(self) -> None:
        """Nothing: random numbers would only cost time."""


class Bert(nn.Module):
    """Token ids to token vectors. Weights are undefined until loaded: :func:`build_bert` does both."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, eps = sizes.hidden_size, sizes.layer_norm_eps
        table: Any = nn.Embedding.from_pretrained  # left as allocated, like the linear layers
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": table(torch.empty(sizes.vocab_size, width)),
                "position_embeddings": table(torch.empty(sizes.max_position_embeddings, width)),
                "token_type_embeddings": table(torch.empty(sizes.type_vocab_size, width)),
                "LayerNorm": nn.LayerNorm(width, eps=eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_hidden_layers))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) int64 ids to (B, L, hidden); ``attention_mask`` is 1 for tokens and 0 for padding on the right."""
        embeddings: Any = self.embeddings
        positions = embeddings["position_embeddings"].weight[: input_ids.shape[1]]
        first_type = embeddings["token_type_embeddings"].weight[0]
        hidden: Tensor = embeddings["LayerNorm"](embeddings["word_embeddings"](input_ids) + first_type + positions)
        seen = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        layers: Any = self.encoder["layer"]
        for layer in layers:
            hidden = layer(hidden, seen)
        return hidden


class _Layer(nn.Module):
    """Self-attention, then a feed-forward network, each with a residual and LayerNorm after it."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        width, eps = sizes.hidden_size, sizes.layer_norm_eps
        self.heads = sizes.num_attention_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: _Linear(width, width) for name in ("query", "key", "value")}),
                "output": _residual_output(width, width, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": _Linear(width, sizes.intermediate_size)})
        self.output = _residual_output(sizes.intermediate_size, width, eps)

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        projections: Any = self.attention["self"]
        query, key, value = (
            projections[name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = attention(query, key, value, seen).transpose(1, 2).flatten(2)
        output: Any = self.attention["output"]
        hidden = output["LayerNorm"](output["dense"](mixed) + hidden)
        inner = F.gelu(self.intermediate["dense"](hidden))
        return self.output["LayerNorm"](self.output["dense"](inner) + hidden)


def _residual_output(inputs: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": _Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def build_bert(described: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Bert:
    """A BERT with its weights, every tensor accounted for.

    Raises:
        WeightsError: the config is not understood, or a tensor is missing, superfluous or of the wrong shape.
    """
    model = Bert(BertSizes.from_dict(described, where))
    try:
        model.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{where}: weights and config.json do not fit: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False)
