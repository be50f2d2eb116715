"""A transformer cut in two: the lower part that no fine-tuning changes, and the rest.

What the lower part says about a text never changes, so it is computed once and kept. Both parts
are views of one live model: they share its modules, and copy no parameter.

Most classifiers read only the first token of the last layer. There the other tokens need no query
and no feed-forward, which is five sixths of that layer's work: the upper part leaves it out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.errors import BadTask

# Where the encoder sits in the base model: BERT, RoBERTa, MPNet, ELECTRA / DistilBERT.
_ENCODERS = ("encoder", "transformer")


@dataclass(frozen=True)
class Cut:
    """Where a model is cut: below go the embeddings and the first `freeze` encoder layers.

    `base` and `encoder` are attribute names. Everything in the encoder that is not one of the
    upper layers (relative position tables, say) counts as below, since the trunk reads it.
    `first_token` says that the last layer need only be computed for the first token.
    """

    base: str
    encoder: str
    freeze: int
    first_token: bool = False

    @classmethod
    def of(cls, model: Any, freeze: int) -> Cut:
        """The cut of a transformers model; BadTask if it has no embeddings and encoder layers."""
        base = model.base_model
        for name in _ENCODERS:
            layers = getattr(getattr(base, name, None), "layer", None)
            if isinstance(layers, nn.ModuleList) and isinstance(
                getattr(base, "embeddings", None), nn.Module
            ):
                if freeze > len(layers):
                    raise BadTask(
                        f"freeze = {freeze}, but the model has {len(layers)} encoder layers; "
                        f"freeze at most that many"
                    )
                return cls(model.base_model_prefix, name, freeze)
        raise BadTask(
            f"layers of a {type(model).__name__} cannot be frozen, as it has no embeddings and "
            f"encoder layers that ladle knows; set freeze = 0"
        )

    def below(self, parameter: str) -> bool:
        """Whether the tensor of this name belongs to the lower part."""
        if parameter.startswith(f"{self.base}.embeddings."):
            return True
        encoder = f"{self.base}.{self.encoder}."
        if not parameter.startswith(encoder):
            return False
        group, _, rest = parameter.removeprefix(encoder).partition(".")
        return group != "layer" or int(rest.partition(".")[0]) < self.freeze

    def lower(self, model: nn.Module) -> Any:
        """The base model up to the cut: token ids -> hidden states."""
        base = _view(getattr(model, self.base))
        encoder = _view(getattr(base, self.encoder))
        encoder.layer = encoder.layer[: self.freeze]
        setattr(base, self.encoder, encoder)
        return base

    def upper(self, model: nn.Module) -> Any:
        """The whole model from the cut on: hidden states, as `inputs_embeds` -> logits."""
        whole, base = _view(model), _view(getattr(model, self.base))
        encoder = _view(getattr(base, self.encoder))
        layers = list(encoder.layer[self.freeze :])
        if self.first_token:
            layers[-1] = _FirstTokenOnly(layers[-1])
        encoder.layer = nn.ModuleList(layers)
        setattr(base, self.encoder, encoder)
        base.embeddings = _AlreadyEmbedded()
        setattr(whole, self.base, base)
        return whole

    @torch.no_grad()
    def tried(self, model: nn.Module, head: str, inputs: Mapping[str, Tensor]) -> Cut:
        """This cut after a try on some texts, with `first_token` if that gives the same.

        `inputs` are what the whole model is called with: `input_ids`, `attention_mask` and,
        where it wants them, `token_type_ids`.

        Raises:
            BadTask: if lower and upper part, one after the other, are not the model.
        """
        # The head of a new classifier is zero, and would make all logits equal.
        weight = model.get_parameter(f"{head}.weight")
        generator = torch.Generator().manual_seed(0)
        some = {f"{head}.weight": torch.randn(weight.shape, generator=generator) / 8}

        def logits(part: nn.Module, **given: Tensor) -> Tensor:
            output: Any = torch.func.functional_call(part, some, kwargs=given)
            return output.logits  # type: ignore[no-any-return]

        whole = logits(model, **inputs)
        mask = inputs["attention_mask"]
        for cut in (replace(self, first_token=True), replace(self, first_token=False)):
            try:
                states = self.lower(model)(**inputs).last_hidden_state
                ours = logits(cut.upper(model), inputs_embeds=states, attention_mask=mask)
            except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
                continue  # an architecture that cannot be taken apart like this
            if ours.shape == whole.shape and torch.allclose(ours, whole, atol=1e-4):
                return cut
        raise BadTask(
            f"layers of a {type(model).__name__} cannot be frozen, as it gives other logits when "
            f"its lower and upper layers run apart; set freeze = 0"
        )


class _AlreadyEmbedded(nn.Module):
    """Takes the place of embeddings: hands on the states it is given."""

    def forward(self, *positional: object, **named: object) -> Tensor:
        for value in (*positional, *named.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        raise TypeError("no hidden states were given")


class _FirstTokenOnly(nn.Module):
    """A BERT layer, (B, L, H) -> (B, 1, H): what the layer says of the first token."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, states: Tensor, mask: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        attention: Any = self.layer.attention
        heads = attention.self
        first = states[:, :1]

        def split(values: Tensor) -> Tensor:
            return values.reshape(*values.shape[:2], heads.num_attention_heads, -1).transpose(1, 2)

        context = F.scaled_dot_product_attention(
            split(heads.query(first)),
            split(heads.key(states)),
            split(heads.value(states)),
            attn_mask=None if mask is None else mask[:, :, :1],
            dropout_p=heads.dropout.p if heads.training else 0.0,
        )
        attended = attention.output(context.transpose(1, 2).flatten(2), first)
        return self.layer.output(self.layer.intermediate(attended), attended)  # type: ignore[no-any-return]


def _view(module: nn.Module) -> Any:
    """The same module with a list of children of its own; the children are shared."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view
