"""A mean of state dicts that are at hand one after the other, in any training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladle.checkpoint import Bytes, Layout, MemoryCheckpoint, TensorSpec
from ladle.checkpoint.dtypes import AVERAGED, promote
from ladle.checkpoint.memory import check_whole
from ladle.checkpoint.write import Plain, safetensors_file, torch_file
from ladle.errors import BadInput, LayoutMismatch
from ladle.files import new_file, refuse_existing
from ladle.location import located
from ladle.merge import Ingredients, Policy, Quotient, RunningSums, Sink, stream
from ladle.merge.slices import read_bytes
from ladle.merge.unaveraged import common_value
from ladle.soup.output import FILE_SUFFIXES, is_file_output
from ladle.soup.pool import differences

if TYPE_CHECKING:
    from torch import Tensor, nn

_VERSION = 1


class RunningSoup:
    """The mean of the state dicts that were added so far, none of which is kept.

    The sums are on the CPU in float64, 8 bytes for each floating-point parameter (16 for those
    that are float64 themselves), wherever the state dicts are. They are divided once and rounded
    once, to the dtype of the state dicts: the mean has the same bits as `ladle.uniform` of the same
    state dicts saved to files. The order of adding makes no difference as long as the float64 sums
    are exact, which they are where the values of a weight lie within a factor of about 2^29 (for
    float32) of one another; beyond that the last bit may differ, for the soup of files puts them
    into an order of its own.

    Integers and booleans are not averaged: equal ones are copied, `num_batches_tracked` takes the
    maximum, other differences are an error unless `integers` says what to take. Tied tensors stay
    tied. What `add` refuses leaves the mean as it was.

        soup = ladle.RunningSoup()
        for step, batch in enumerate(batches):
            train(model, batch)
            if step >= start and step % 100 == 0:
                soup.add(model.state_dict())
        soup.load_into(model)
    """

    def __init__(self, *, integers: Policy = "equal") -> None:
        self._integers: Policy = integers
        self._sums = RunningSums()
        self._layout = Layout({})
        self._fixed: dict[str, Bytes] = {}
        self._count = 0
        self._weight = 0.0

    def __len__(self) -> int:
        """How many state dicts were added."""
        return self._count

    def add(self, state_dict: Mapping[str, Tensor], weight: float = 1) -> None:
        """Count `state_dict` in, `weight` times; weights need not sum to anything.

        Raises:
            LayoutMismatch: its tensors are not those of the first, or integers differ.
            NonFiniteTensor: it holds NaN or infinity.
            BadInput: a value is no tensor, or only a part of one; the weight is not above 0.
        """
        weight = float(weight)
        if not (math.isfinite(weight) and weight > 0):
            raise BadInput(
                f"a state dict's weight is a number above 0, not {weight:g}; leave it out"
            )
        check_whole(state_dict)
        who = f"state dict {self._count + 1}"
        checkpoint = MemoryCheckpoint(Path(who), state_dict)
        layout = self._common(checkpoint.layout, who)
        fixed = {
            name: self._common_value(name, spec, checkpoint, who)
            for name, spec in layout.tensors.items()
            if spec.dtype not in AVERAGED
        }
        self._sums.add(checkpoint, who, weight)
        self._layout, self._fixed = layout, fixed
        self._count += 1
        self._weight += weight

    def state_dict(self) -> dict[str, Tensor]:
        """The mean, on the CPU.

        Raises:
            NonFiniteTensor: it is too large for its dtype.
        """
        from ladle.soup.live import StateDictSink

        sink = StateDictSink(self._layout)
        self._stream_into(sink, self._layout)
        return sink.state

    def load_into(self, model: nn.Module) -> nn.Module:
        """Replace the weights of `model` in place, on whatever device they are; returns it.

        Raises:
            LayoutMismatch: the model's tensors are not those of the state dicts.
        """
        from ladle.soup.live import ModuleSink

        sink = ModuleSink(model, self._layout)
        self._stream_into(sink, sink.layout)
        sink.finish()
        return model

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the mean to one file: .safetensors, or as torch.save does (.pt, .pth, .ckpt).

        It appears complete or not at all.

        Raises:
            OutputExists: there is one, and `overwrite` is False.
            BadInput: the file's name has another suffix.
            NoSpace: the disk has too little room.
        """
        path = located(path)
        if not is_file_output(path):
            raise BadInput(f"let {path} end in {' or '.join(FILE_SUFFIXES)}")
        refuse_existing(path, overwrite=overwrite, is_file=True, is_ours=True)
        layout = self._layout
        with new_file(path, nbytes=layout.nbytes) as part:
            said = Plain({"state_dicts": str(self._count)})
            writing = (
                safetensors_file(part, layout, said)
                if path.suffix == ".safetensors"
                else torch_file(part, layout)
            )
            with writing as sink:
                self._stream_into(sink, layout)
        return path

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint of the training has to hold, to go on with `set_state`.

        Tensors, numbers and texts in plain dictionaries, which `torch.load` reads with
        `weights_only=True`. The tensors share the memory of the sums: save it before the next
        `add`.
        """
        return {
            "version": _VERSION,
            "count": self._count,
            "weight": self._weight,
            "dtypes": {name: spec.dtype for name, spec in self._layout.tensors.items()},
            "ties": dict(self._layout.ties),
            "sums": self._tensors(self._sums.totals),
            "lost": {
                n: t for n, t in self._tensors(self._sums.lost).items() if n in self._sums.lost
            },
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Become what `get_state` was called on; the tensors are copied.

        Raises:
            BadInput: it is something else, or of another version of ladle.
        """
        if state.get("version") != _VERSION or not isinstance(state.get("sums"), Mapping):
            raise BadInput(
                f"this is no state of a RunningSoup of version {_VERSION}; give what get_state() "
                "returned"
            )
        tensors, dtypes = state["sums"], state["dtypes"]
        specs = {name: TensorSpec(dtypes[name], tuple(t.shape)) for name, t in tensors.items()}
        self._layout = Layout(specs, dict(state["ties"]))
        self._count, self._weight = int(state["count"]), float(state["weight"])
        self._sums = RunningSums(
            {n: _copied(t) for n, t in tensors.items() if specs[n].dtype in AVERAGED},
            {n: _copied(t) for n, t in state["lost"].items()},
        )
        kept = MemoryCheckpoint(Path("the state"), tensors)
        self._fixed = {
            name: read_bytes(kept, name, 0, spec.numel)
            for name, spec in specs.items()
            if spec.dtype not in AVERAGED
        }

    def _common(self, found: Layout, who: str) -> Layout:
        """The layout of what was added before, and of this."""
        if not self._count:
            return found
        lines = differences(self._layout.tensors, self._layout.ties, found)
        if lines:
            raise LayoutMismatch(
                f"{who} does not go with those before: {'; '.join(lines[:5])}"
                + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
                + "; a soup needs the same tensors in all of them"
            )
        tensors = {
            name: TensorSpec(promote(spec.dtype, found.tensors[name].dtype) or "", spec.shape)
            for name, spec in self._layout.tensors.items()
        }
        return Layout(tensors, self._layout.ties)

    def _common_value(self, name: str, spec: TensorSpec, one: MemoryCheckpoint, who: str) -> Bytes:
        value = read_bytes(one, name, 0, spec.numel)
        if not self._count:
            return value
        values, names = [self._fixed[name], value], ["those before", who]
        return common_value(name, spec.dtype, values, names, self._integers)

    def _stream_into(self, sink: Sink, layout: Layout) -> None:
        if not self._count:
            raise BadInput("a soup of no state dicts has no weights; add one first")
        checkpoints = [
            MemoryCheckpoint(
                Path(f"the sum of {self._count} state dicts"), self._tensors(self._sums.totals)
            ),
            MemoryCheckpoint(Path("what they lost"), self._tensors(self._sums.lost)),
        ]
        ingredients = Ingredients(checkpoints, [str(one.path) for one in checkpoints])
        stream(ingredients, Quotient(self._weight, frozenset(self._sums.lost)), layout, sink)

    def _tensors(self, numbers: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
        """These float64 numbers, and the tensors that are not averaged, in their shapes."""
        import torch

        found: dict[str, Tensor] = {}
        for name, spec in self._layout.tensors.items():
            if name in numbers:
                found[name] = torch.from_numpy(numbers[name]).view(spec.shape)
            elif name in self._fixed:
                # Copied, for there are no bytes of an empty tensor to look at in another dtype.
                found[name] = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
                if spec.numel:
                    flat = torch.from_numpy(self._fixed[name])
                    found[name].view(-1).view(torch.uint8)[:] = flat
        return found


def _copied(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers: np.ndarray[Any, np.dtype[np.float64]] = (
        tensor.detach().cpu().reshape(-1).numpy().copy()
    )
    return numbers
