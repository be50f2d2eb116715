"""Soups in memory: into the parameters of a live module, or into a new state dict."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ladle.checkpoint import Bytes, Layout, TensorSpec
from ladle.checkpoint.dtypes import AVERAGED, ITEMSIZE, promote
from ladle.errors import LayoutMismatch


class StateDictSink:
    """Collects a state dict on the CPU."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.state: dict[str, Tensor] = {
            name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
            for name, spec in layout.tensors.items()
        }
        # Of a part of the tensors, those that are tied may be left out.
        there = {alias: kept for alias, kept in layout.ties.items() if kept in self.state}
        self.state |= {alias: self.state[kept] for alias, kept in there.items()}

    def write(self, name: str, start: int, values: Bytes) -> None:
        numbers = _tensor(values, self._layout.tensors[name].dtype)
        self.state[name].view(-1)[start : start + len(numbers)] = numbers


class ModuleSink:
    """Replaces the tensors of a module in place; `finish` completes it.

    What is written has to be in the dtypes of its `layout`: see `_dtype`.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        """
        Raises:
            LayoutMismatch: names, shapes or kinds differ; all differences are named.
        """
        self._state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        self._staged: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        _check(self._state, layout, type(model).__name__)
        self.layout = Layout(
            {
                n: TensorSpec(_dtype(spec, self._state[n]), spec.shape)
                for n, spec in layout.tensors.items()
            },
            layout.ties,
        )
        self._shared = _shared({name: self._state[name] for name in layout.tensors})

    def check_untied(self, changed: Iterable[str]) -> None:
        """Check that what adapters change is not also another tensor, which they do not change.

        Raises:
            LayoutMismatch: the model ties it to one that the soup leaves out.
        """
        names = {name for name, tensor in self._state.items() if tensor.numel()}
        left_out = {self._state[n].data_ptr(): n for n in names - self.layout.tensors.keys()}
        for name in changed:
            other = left_out.get(self._state[name].data_ptr())
            if name in names and other is not None:
                raise LayoutMismatch(
                    f"the adapters change {name} alone, and the model ties {other} to it; untie "
                    "them in the model, and save the base with both"
                )

    def write(self, name: str, start: int, values: Bytes) -> None:
        numbers = _tensor(values, self.layout.tensors[name].dtype)
        target = self._state[name]
        if name in self._shared or not target.is_contiguous():
            with self._lock:
                # Channels-last weights are not in row-major order: gather, then copy at the end.
                # Two tensors for one place would race: gather, then compare.
                if name not in self._staged:
                    self._staged[name] = torch.empty(target.shape, dtype=numbers.dtype)
                target = self._staged[name]
        target.view(-1)[start : start + len(numbers)].copy_(numbers)

    def finish(self) -> None:
        staged = self._staged
        for name, values in staged.items():
            if name not in self._shared:
                self._state[name].copy_(values)
        for name, kept in self._shared.items():
            # Of a part of the tensors, those that are tied may be left out.
            if name not in staged:
                continue
            if not torch.equal(self._state[kept], staged[name].to(self._state[kept])):
                raise LayoutMismatch(
                    f"the model ties {name} to {kept}, which differ in the soup; untie them first"
                )
        staged.clear()
        for alias, kept in self.layout.ties.items():
            if (
                alias in self._state
                and self._state[alias].data_ptr() != self._state[kept].data_ptr()
            ):
                self._state[alias].copy_(self._state[kept])


def _tensor(values: Bytes, dtype: str) -> Tensor:
    kind: Any = getattr(torch, dtype)
    if values.nbytes == ITEMSIZE[dtype] == 1:
        return torch.from_numpy(values).view(kind)
    return torch.frombuffer(values.data, dtype=kind)


def _dtype(spec: TensorSpec, target: Tensor) -> str:
    """The dtype to round to: the model's where it is the narrower one, in one rounding.

    In a wider model the weights are those that a file would hold: what is judged is what is saved.
    """
    wanted = str(target.dtype).removeprefix("torch.")
    return wanted if promote(wanted, spec.dtype) == spec.dtype else spec.dtype


def _shared(state: dict[str, Tensor]) -> dict[str, str]:
    """Names whose memory an earlier one has, and that one."""
    seen: dict[object, str] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        first = seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name and tensor.numel():
            shared[name] = first
    return shared


def _check(state: dict[str, Tensor], layout: Layout, model: str) -> None:
    known = layout.tensors.keys() | layout.ties.keys()
    # A tied name that the file leaves out is filled through the tensor it shares.
    filled = {state[name].data_ptr() for name in known if name in state and state[name].numel()}
    lines = [
        f"the soup lacks {name}"
        for name, tensor in state.items()
        if name not in known and not (tensor.numel() and tensor.data_ptr() in filled)
    ]
    lines += [f"the model lacks {name}" for name in layout.tensors if name not in state]
    lines += [
        f"{name} has shape {list(spec.shape)} in the soup, {list(state[name].shape)} in the model"
        for name, spec in layout.tensors.items()
        if name in state and tuple(state[name].shape) != spec.shape
    ]
    lines += [
        f"{name} is {spec.dtype} in the soup, {state[name].dtype} in the model"
        for name, spec in layout.tensors.items()
        if name in state and spec.dtype in AVERAGED and not state[name].is_floating_point()
    ]
    if lines:
        shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
        raise LayoutMismatch(f"the soup does not fit into {model}: {shown}")
