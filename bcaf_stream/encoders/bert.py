"""BERT's encoder in plain torch: to import transformers for a model of six layers costs more than all the rest.

The weights' names are those of transformers' BertModel without its pooler, so that its checkpoints load as they
are; a test holds the two against each other. For inference: there is no dropout.

Shape letters: B utterances, T tokens, W width, H heads.
Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F


class BertShape(BaseModel):
    """What `config.json` of a BERT must say for this code; what it says beyond is of no effect here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    model_type: Literal["bert"] = "bert"
    vocab_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    max_position_embeddings: int = Field(ge=1)
    type_vocab_size: int = Field(default=2, ge=1)
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


class _Embeddings(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, ids_BT: Tensor) -> Tensor:
        positions_TW = self.position_embeddings.weight[: ids_BT.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids_BT) + self.token_type_embeddings.weight[0] + positions_TW)


class _SelfAttention(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self._heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, x_BTW: Tensor, mask_B11T: Tensor) -> Tensor:
        query, key, value = (
            layer(x_BTW).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed_BHTV = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B11T)
        return mixed_BHTV.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """A projection, added to what came in, normalised."""

    def __init__(self, width: int, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(width, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, x_BTV: Tensor, residual_BTW: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x_BTV) + residual_BTW)


class _Layer(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        attention = {"self": _SelfAttention(shape), "output": _Output(shape.hidden_size, shape)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)})
        self.output = _Output(shape.intermediate_size, shape)

    def forward(self, x_BTW: Tensor, mask_B11T: Tensor) -> Tensor:
        x_BTW = self.attention["output"](self.attention["self"](x_BTW, mask_B11T), x_BTW)
        return self.output(F.gelu(self.intermediate["dense"](x_BTW)), x_BTW)


class _Layers(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))

    def forward(self, x_BTW: Tensor, mask_B11T: Tensor) -> list[Tensor]:
        hidden = [x_BTW]
        for layer in self.layer:
            hidden.append(layer(hidden[-1], mask_B11T))
        return hidden


class BertTrunk(nn.Module):
    """Token ids to the hidden states of the embeddings and of every layer."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = _Embeddings(shape)
        self.encoder = _Layers(shape)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """`mask_BT` is True where a token is; returns num_hidden_layers + 1 tensors (B, T, W)."""
        return self.encoder(self.embeddings(ids_BT), mask_BT[:, None, None, :])
