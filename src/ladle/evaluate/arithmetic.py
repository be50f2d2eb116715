"""How a model computes while it is evaluated: quicker, and with other rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Arithmetic:
    """What changes logits by rounding alone, and so has to be known of every prediction.

    With `amp`, PyTorch's autocast computes what can stand it in bfloat16. With `channels_last`, the
    weights of convolutions lie in memory as convolutions like them. Weights stay what they are.
    """

    amp: bool = False
    channels_last: bool = False

    def describe(self) -> dict[str, Any]:
        """For the record."""
        autocast = "bfloat16" if self.amp else None
        return {"autocast": autocast, "channels_last": self.channels_last}

    def identity(self, task: str) -> str:
        """The digest of a task, marked if its logits are computed in another way than usual."""
        marks = [mark for mark in ("amp", "channels_last") if getattr(self, mark)]
        return " ".join([task, *marks])

    def laid_out(self, model: nn.Module) -> nn.Module:
        """The model with its weights where this wants them in memory."""
        import torch

        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    @contextmanager
    def computing(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """While this lasts, `model` computes so on `device`, and its output is float32."""
        import torch

        if not self.amp:
            yield
            return
        # NumPy has no bfloat16, and a task that takes logits there need not know of this.
        hook = model.register_forward_hook(_to_float32)
        try:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                yield
        finally:
            hook.remove()


def _to_float32(model: nn.Module, inputs: object, output: object) -> object:
    import torch

    narrow = isinstance(output, torch.Tensor) and output.dtype == torch.bfloat16
    return output.float() if narrow else output  # type: ignore[attr-defined]
