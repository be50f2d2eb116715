"""What an optimiser is told: which parameters, at which rate, from which point."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from ladle.errors import BadInput, BadTask

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
    "constant": lambda done: 1.0,
}
"""The share of the peak learning rate when this share of the steps after the warm-up is done."""

# Direct parameters of a tower that come after its blocks, though they are registered before them:
# the output of open_clip's towers.
_OUTPUTS = ("proj", "text_projection")
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, of the parameters that ask for gradients, in a fixed order.

    Tensors of one dimension (biases, norms) do not decay. With a `layer_decay` below 1, the
    learning rate is `lr` at the top, and that many times smaller with each layer down (BEiT: Bao
    et al., 2022); see `layers_of`.

    Raises:
        BadTask: no parameter asks for gradients.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise BadTask("no parameter of the model is trainable; freeze less of it")
    layers = layers_of(model) if layer_decay < 1 else dict.fromkeys(trained, 0)
    top = max(layers.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault((layers[name], parameter.ndim <= 1), []).append(parameter)
    return [
        {
            "params": groups[layer, flat],
            "lr": lr * layer_decay ** (top - layer),
            "weight_decay": 0.0 if flat else weight_decay,
        }
        for layer, flat in sorted(groups)
    ]


def layers_of(model: nn.Module) -> dict[str, int]:
    """The layer of every parameter, counted from the bottom: stem, blocks one by one, top.

    Blocks are the members of the outermost numbered families (`blocks.0`, `blocks.1`; `layer1.0`)
    that hold members alike, and go on counting from one stack to the next, in the order in which
    the model registers them: T5's decoder lies above its encoder. What lies between two blocks
    belongs to the later one, and what follows the last one to the top, with the head; embeddings
    are always at the bottom. This is the count of BEiT, for any architecture. A model without
    such blocks has a layer for each of its modules.
    """
    blocks = {name: number for number, name in enumerate(_blocks(model), start=1)}
    embeddings = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters()
    }
    layers: dict[str, int] = {}
    reached = 0
    for name, _ in model.named_parameters():
        block = next((blocks[prefix] for prefix in _prefixes(name) if prefix in blocks), None)
        if block is not None:
            layers[name] = reached = block
        elif name.rpartition(".")[2] in _OUTPUTS:
            layers[name] = len(blocks) + 1
        elif reached == 0 or name in embeddings:
            layers[name] = 0
        else:
            layers[name] = reached + 1
    return layers


def _blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks, in order."""
    level = {
        kind
        for path, module in model.named_modules()
        for kind, family in _families(path, module).items()
        if any(_alike(one, other) for one, other in combinations(family.values(), 2))
    }
    return list(_stacked(model, "", level) if level else _members(model, ""))


def _families(path: str, module: nn.Module) -> dict[str, dict[str, nn.Module]]:
    """Children whose names differ in numbers alone, by that name, and each by its path.

    Single layers are left out: a network is no stack of its norms.
    """
    families: dict[str, dict[str, nn.Module]] = {}
    for name, child in module.named_children():
        if re.search(r"\d", name) and _is_compound(child):
            whole = f"{path}.{name}".lstrip(".")
            families.setdefault(_kind(whole), {})[whole] = child
    return families


def _kind(path: str) -> str:
    return re.sub(r"\d+", "*", path)


def _is_compound(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are repetitions: what both have by one name has one shape.

    Stages of a pyramid are not, as their widths differ; the first block of T5 and the second are,
    though the first has a table more.
    """
    ours, theirs = (
        {name: tensor.shape for name, tensor in module.named_parameters()}
        for module in (one, other)
    )
    shared = ours.keys() & theirs.keys()
    return bool(shared) and all(ours[name] == theirs[name] for name in shared)


def _stacked(module: nn.Module, path: str, level: set[str]) -> Generator[str, None, None]:
    for name, child in module.named_children():
        whole = f"{path}.{name}".lstrip(".")
        # The stem may stand in one list with the stages, its layers where these have blocks.
        if _kind(whole) in level and _is_compound(child):
            yield whole
        else:
            yield from _stacked(child, whole, level)


def _members(module: nn.Module, path: str) -> Generator[str, None, None]:
    """Children with weights, and the members of lists in their place."""
    for name, child in module.named_children():
        whole = f"{path}.{name}".lstrip(".")
        if isinstance(child, _LISTS):
            yield from _members(child, whole)
        # A norm on its own is no layer.
        elif any(parameter.ndim > 1 for parameter in child.parameters()):
            yield whole


def _prefixes(name: str) -> Generator[str, None, None]:
    """`a`, `a.b`, ... of `a.b.c`."""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.start()]


def rate(step: int, total: int, *, warm_up: float, schedule: str) -> float:
    """The share of the peak learning rate at a step, counted from 0, of `total`.

    It rises linearly over the warm-up, a share of the steps (below 1; at least one step, if it is
    not 0) or a number of them, and then follows one of `SCHEDULES`, which but for `constant` come
    to 0 after the last step.
    """
    if schedule not in SCHEDULES:
        raise BadInput(f"schedule is {schedule!r}; choose from {', '.join(SCHEDULES)}")
    rising = max(1, round(warm_up * total)) if 0 < warm_up < 1 else round(warm_up)
    if step < rising:
        return (step + 1) / rising
    return SCHEDULES[schedule](min(1.0, (step - rising) / max(1, total - rising)))


@contextmanager
def climbed(parameters: Iterable[nn.Parameter], rho: float) -> Generator[None, None, None]:
    """Within it, parameters lie ρ further up their gradient; after it, where they were, exactly.

    This is the first of the two passes of sharpness-aware minimisation (Foret et al., 2021): the
    point w + ρ g / ‖g‖, with the norm over all gradients together, is the worst within ρ, to first
    order; the gradient there is what the step is made with. Nothing moves where that norm is 0 or
    not finite. The gradients stay, and the parameters are kept in a copy meanwhile.
    """
    moved = [(p, p.grad) for p in parameters if p.grad is not None]
    kept: list[Tensor] = []
    with torch.no_grad():
        norm = _norm([gradient for _, gradient in moved])
        if 0 < norm < math.inf:
            kept = [parameter.clone() for parameter, _ in moved]
            for parameter, gradient in moved:
                parameter.add_(gradient, alpha=rho / norm)
    try:
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), before in zip(moved, kept, strict=False):  # none, if none moved
                parameter.copy_(before)


def _norm(gradients: Sequence[Tensor]) -> float:
    if not gradients:
        return 0.0
    # What nn.utils.clip_grad_norm_ measures.
    norms = torch.stack([torch.linalg.vector_norm(one) for one in gradients])
    return float(torch.linalg.vector_norm(norms))
