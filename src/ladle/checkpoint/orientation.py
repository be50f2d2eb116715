"""Which way round the matrices lie that an adapter changes: a Linear's, or a Conv1D's transpose.

PEFT finds out from the modules, and notes of the whole adapter only what held for the last of them
(`fan_in_fan_out`). Shapes tell it of every other matrix; of a square one, its namesakes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ladle.checkpoint.adapter import AdapterCheckpoint, Factors
from ladle.checkpoint.base import Checkpoint, TensorSpec
from ladle.errors import LayoutMismatch


def lying_as_in(
    adapter: AdapterCheckpoint, base: Checkpoint, specs: Mapping[str, TensorSpec]
) -> AdapterCheckpoint:
    """The adapter with every change turned the way its tensor lies in `base`.

    `specs` are those of the base, under the names that the adapter has for them.

    Raises:
        LayoutMismatch: nothing tells how a square matrix lies.
    """
    matrices = {name: one for name, one in adapter.changes.items() if _is_matrix(adapter, one)}
    known = [*_by_bias(specs), *_by_shape(adapter, matrices, specs)]
    kinds = {transposed for _, transposed in known}
    changes, tensors = dict(adapter.changes), dict(adapter.layout.tensors)
    for name, factors in matrices.items():
        shape, found = tensors[name].shape, specs.get(name)
        if found is None or found.shape not in (shape, shape[::-1]):
            continue  # It is of another model, and the layout says so.
        turned = found.shape != shape
        if shape[0] == shape[1]:
            namesakes = {kind for other, kind in known if _last(other) == _last(name)}
            if len(namesakes) == 1:
                turned = factors.transposed not in namesakes
            elif len(matrices) > 1 and (factors.transposed or True in kinds):
                raise LayoutMismatch(
                    f"{adapter.path} changes the square matrix {name!r}, and nothing in the base "
                    f"{base.path} tells whether a Linear or a Conv1D holds it; merge the adapters "
                    "into their base with PEFT and average the merged models"
                )
        if turned:
            changes[name] = replace(factors, transposed=not factors.transposed)
            tensors[name] = replace(tensors[name], shape=shape[::-1])
    layout = replace(adapter.layout, tensors=tensors)
    return replace(adapter, changes=changes, layout=layout)


def _is_matrix(adapter: AdapterCheckpoint, factors: Factors) -> bool:
    """Whether it may lie either way, as embeddings and convolutions do not."""
    shape = adapter.layout.tensors[f"{factors.module}.weight"].shape
    return len(shape) == 2 and not factors.a.endswith("_embedding_A")


def _by_bias(specs: Mapping[str, TensorSpec]) -> Iterator[tuple[str, bool]]:
    """Matrices of the base beside a bias, which has as many numbers as there are outputs."""
    for name, spec in specs.items():
        bias = specs.get(f"{name.removesuffix('.weight')}.bias")
        if bias and name.endswith(".weight") and _tells(spec.shape):
            if bias.shape == spec.shape[:1]:
                yield name, False
            elif bias.shape == spec.shape[1:]:
                yield name, True


def _by_shape(
    adapter: AdapterCheckpoint, matrices: Mapping[str, Factors], specs: Mapping[str, TensorSpec]
) -> Iterator[tuple[str, bool]]:
    for name, factors in matrices.items():
        shape = adapter.layout.tensors[name].shape
        if name in specs and _tells(shape):
            if specs[name].shape == shape:
                yield name, factors.transposed
            elif specs[name].shape == shape[::-1]:
                yield name, not factors.transposed


def _tells(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] != shape[1]


def _last(name: str) -> str:
    """What a model calls modules of one kind; numbers are of any, and stand for themselves."""
    module = name.removesuffix(".weight")
    last = module.rpartition(".")[2]
    return module if last.isdecimal() else last
