"""A transformer cut in two: the lower part that no fine-tuning changes, and the rest.

What the lower part says about a text never changes, so it is computed once and kept. Both parts
are views of one live model: they share its modules, and copy no parameter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ladle.errors import BadTask

# Where the encoder sits in the base model: BERT, RoBERTa, MPNet, ELECTRA / DistilBERT.
_ENCODERS = ("encoder", "transformer")


@dataclass(frozen=True)
class Cut:
    """Where a model is cut: below go the embeddings and the first `freeze` encoder layers.

    `base` and `encoder` are attribute names. Everything in the encoder that is not one of the
    upper layers (relative position tables, say) counts as below, since the trunk reads it.
    """

    base: str
    encoder: str
    freeze: int

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

    def lower(self, model: nn.Module) -> nn.Module:
        """The base model up to the cut: token ids -> hidden states."""
        base = _view(getattr(model, self.base))
        encoder = _view(getattr(base, self.encoder))
        encoder.layer = encoder.layer[: self.freeze]  # type: ignore[index]
        setattr(base, self.encoder, encoder)
        return base

    def upper(self, model: nn.Module) -> nn.Module:
        """The whole model from the cut on: hidden states, as `inputs_embeds` -> logits."""
        whole, base = _view(model), _view(getattr(model, self.base))
        encoder = _view(getattr(base, self.encoder))
        encoder.layer = encoder.layer[self.freeze :]  # type: ignore[index]
        setattr(base, self.encoder, encoder)
        base.embeddings = _AlreadyEmbedded()
        setattr(whole, self.base, base)
        return whole

    @torch.inference_mode()
    def check(self, model: nn.Module, ids: Tensor, mask: Tensor) -> None:
        """BadTask unless lower and upper part, one after the other, are the model."""
        base = getattr(model, self.base)
        try:
            states = self.lower(model)(input_ids=ids, attention_mask=mask).last_hidden_state
            upper = getattr(self.upper(model), self.base)
            cut = upper(inputs_embeds=states, attention_mask=mask).last_hidden_state
            whole = base(input_ids=ids, attention_mask=mask).last_hidden_state
            same = torch.allclose(cut[mask.bool()], whole[mask.bool()], atol=1e-4)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            same = False
        if not same:
            raise BadTask(
                f"layers of a {type(model).__name__} cannot be frozen, as its lower layers give "
                f"something else when they run alone; set freeze = 0"
            )


class _AlreadyEmbedded(nn.Module):
    """Takes the place of embeddings: hands on the states it is given."""

    def forward(self, *positional: object, **named: object) -> Tensor:
        for value in (*positional, *named.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        raise TypeError("no hidden states were given")


def _view(module: nn.Module) -> Any:
    """The same module with a list of children of its own; the children are shared."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view
