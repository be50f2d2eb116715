"""LoRA adapters of PEFT (Hu et al., 2021), seen as the changes they make to a base model.

An adapter holds factors A and B of each change ΔW = s·B·A. The mean of adapters is the mean of
their changes; the means of their factors multiply to something else. So a change is what a tensor
of an adapter is here, and it is computed, row by row, when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checkpoint.base import Bytes, Checkpoint, Envelope, Layout, TensorSpec
from ladle.checkpoint.dtypes import AVERAGED
from ladle.checkpoint.numbers import Float64, decode, encode
from ladle.checkpoint.safetensors import read_safetensors
from ladle.checkpoint.torch_file import read_torch_file
from ladle.errors import UnreadableCheckpoint

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
"""What PEFT puts before the names of the base model's tensors."""

FACTORS = {
    ".lora_A.weight": ".lora_B.weight",
    ".lora_embedding_A": ".lora_embedding_B",
}
"""The ends of the names of A, and those of its B."""

_FACTOR = re.compile(r"(.*?)[._]?lora[._](?:embedding_)?(?:[ABab]|up|down)(?:\.|$)")
"""A factor by any library's name, and the module that it belongs to."""

_BASE = ".base_layer."
"""What PEFT puts between a module and the tensors of the layer that it wrapped."""

_NEUTRAL = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
        "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
        "lora_ga_config", "megatron_core", "modules_to_save", "peft_type", "peft_version",
        "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
        "task_type", "use_rslora",
    }
)  # fmt: skip
"""Settings that leave ΔW = s·B·A, or are looked at here. Any other that is set is refused."""

_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Those that leave the base as it is; PiSSA, OLoRA and their like take a part out of it."""


@dataclass(frozen=True)
class Factors:
    """One change ΔW = scaling · B·A.

    `a` is the name of A (rank, inputs...), `b` that of B (outputs, rank). `transposed` says that
    the tensor of the base is ΔW's transpose, as that of an embedding is.
    """

    module: str
    a: str
    b: str
    rank: int
    scaling: float
    transposed: bool


@dataclass(frozen=True)
class AdapterCheckpoint:
    """The changes that an adapter makes, named as the tensors that they change: see `Checkpoint`.

    Also the tensors that it holds whole (`modules_to_save`): `whole` maps them to their names in
    the file. PEFT puts the base's own tensors beside the factors of embeddings and output layers;
    they are among these, `lm_head.base_layer.weight`, for they average like any other.
    """

    path: Path
    stored: Checkpoint
    config: Mapping[str, Any]
    changes: Mapping[str, Factors]
    whole: Mapping[str, str]
    layout: Layout
    envelope: Envelope = field(default_factory=Envelope)

    @property
    def format(self) -> str:
        ranks = sorted({factors.rank for factors in self.changes.values()})
        shown = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        return f"LoRA adapter of rank {shown}, {len(self.changes)} changed tensors"

    @cached_property
    def copies(self) -> Mapping[str, str]:
        """The base's tensors of which it brings its own -> what they are called in `whole`."""
        return {name.replace(_BASE, "."): name for name in self.whole if _BASE in name}

    @property
    def files(self) -> tuple[Path, ...]:
        return self.stored.files

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.stored.metadata

    def factor(self, name: str) -> Float64:
        """A factor as a matrix: A as (rank, inputs), B as (outputs, rank)."""
        spec = self.stored.layout.tensors[name]
        raw = np.empty(spec.nbytes, np.uint8)
        self.stored.read_into(name, 0, raw)
        numbers = decode(raw, spec.dtype).astype(np.float64)
        return numbers.reshape(spec.shape[0], -1)

    def read_into(self, name: str, start: int, out: Bytes) -> None:
        if name in self.whole:
            self.stored.read_into(self.whole[name], start, out)
            return
        factors = self.changes[name]
        left, right = self.factor(factors.b), self.factor(factors.a)
        if factors.transposed:
            left, right = right.T, left.T
        columns = right.shape[1]
        stop = start + out.nbytes // 4
        first, last = start // columns, -(-stop // columns)
        rows = factors.scaling * (left[first:last] @ right)
        out[:] = encode(rows.ravel()[start - first * columns : stop - first * columns], "float32")

    def hash_while_reading(self) -> None:
        """Factors are small, and not read from front to back."""

    def digest(self) -> str:
        return self.stored.digest()


def read_adapter(weights: Path) -> AdapterCheckpoint:
    """Open the adapter whose weights are in `weights`, with the configuration beside it.

    Raises:
        UnreadableCheckpoint: something of it is missing or broken, or it is of a kind whose change
            is not s·B·A (DoRA, biases, ...) or whose base is not the pre-trained one (PiSSA, ...).
    """
    config = _config(weights.parent / CONFIG)
    stored = (
        read_safetensors(weights) if weights.suffix == ".safetensors" else read_torch_file(weights)
    )
    # The scaling is in the configuration, so the contents are those of both.
    stored = replace(stored, files=(weights, weights.parent / CONFIG), stamps={})
    specs = stored.layout.tensors
    changes: dict[str, Factors] = {}
    tensors: dict[str, TensorSpec] = {}
    whole: dict[str, str] = {}
    partners: set[str] = set()
    for name in specs:
        end = next((end for end in FACTORS if name.endswith(end)), None)
        if end is not None:
            other = name.removesuffix(end) + FACTORS[end]
            module = name.removesuffix(end).removeprefix(PREFIX)
            factors, spec = _factors(weights, config, module, name, other, specs)
            changes[f"{module}.weight"], tensors[f"{module}.weight"] = factors, spec
            partners.add(other)
    for name, spec in specs.items():
        if name in partners or any(name.endswith(end) for end in FACTORS):
            continue
        module, wrapped, _ = name.removeprefix(PREFIX).partition(_BASE)
        if "lora_" in name or (wrapped and f"{module}.weight" not in changes):
            raise UnreadableCheckpoint(
                f"{weights} has {name!r}, which is no part of a plain LoRA; merge this adapter "
                "into its base and average the merged models"
            )
        whole[name.removeprefix(PREFIX)] = name
        tensors[name.removeprefix(PREFIX)] = spec
    if not changes:
        raise UnreadableCheckpoint(f"{weights} holds no LoRA factors; name an adapter of PEFT")
    return AdapterCheckpoint(weights, stored, config, changes, whole, Layout(tensors))


def loose_factor(names: Collection[str]) -> str | None:
    """A LoRA factor among tensors' names whose own weight is not among them, if there is one.

    So are adapters that lost their configuration, or were saved by another library than PEFT.
    """
    modules = {name: found[1] for name in names if (found := _FACTOR.match(name))}
    whole = {name.rpartition(".")[0] for name in names if name not in modules}
    # `q.weight`, `q.base_layer.weight` and `q.linear.weight` are all beside the factors of q.
    beside = whole | {module.rpartition(".")[0] for module in whole}
    return next((name for name, module in modules.items() if module not in beside), None)


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UnreadableCheckpoint(
            f"{file} is missing, and says how the adapter's factors are scaled; copy it too"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{file} is no JSON that can be read ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UnreadableCheckpoint(f"{file} is of an adapter of kind {kind}; ladle averages LORA")
    if config.get("bias", "none") != "none":
        raise _unlike(file, f"bias = {config['bias']!r}")
    initialised = config.get("init_lora_weights")
    if initialised not in _INITIALISATIONS:
        raise UnreadableCheckpoint(
            f"{file}: init_lora_weights = {initialised!r} changed the base model too; convert the "
            "adapter with PEFT's path_initial_model_for_weight_conversion first"
        )
    strange = sorted(key for key, value in config.items() if value and key not in _NEUTRAL)
    if strange:
        raise _unlike(file, f"{strange[0]} = {config[strange[0]]!r}")
    numbers = [config.get("r"), config.get("lora_alpha")]
    for pattern in ("rank_pattern", "alpha_pattern"):
        found = config.get(pattern) or {}
        numbers += list(found.values()) if _are_patterns(found) else [None]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise UnreadableCheckpoint(f"{file} has a rank or alpha that is no positive number")
    return config


def _are_patterns(found: object) -> bool:
    try:
        return isinstance(found, dict) and all(re.compile(key) for key in found)
    except re.error:
        return False


def _unlike(file: Path, setting: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"{file} has {setting}, with which the change is not s·B·A; merge this adapter into its "
        "base and average the merged models"
    )


def _factors(
    weights: Path,
    config: Mapping[str, Any],
    module: str,
    name: str,
    other: str,
    specs: Mapping[str, TensorSpec],
) -> tuple[Factors, TensorSpec]:
    a, b = specs[name], specs.get(other)
    if b is None:
        raise UnreadableCheckpoint(
            f"{weights} has {name!r} without {other!r}; save the adapter again"
        )
    fits = (
        len(a.shape) >= 2
        and len(b.shape) >= 2
        and b.shape[1:] == (a.shape[0],) + (1,) * (len(b.shape) - 2)
    )
    if not fits or a.dtype not in AVERAGED or b.dtype not in AVERAGED or not a.numel * b.numel:
        raise UnreadableCheckpoint(
            f"{weights}: {name!r} of {a} and {other!r} of {b} do not multiply; grouped "
            "convolutions have to be merged into their base first"
        )
    rank, outputs = a.shape[0], b.shape[0]
    expected = _of_module(config, "rank_pattern", module, config["r"])
    if rank != expected:
        raise UnreadableCheckpoint(
            f"{weights}: {name!r} has rank {rank} where {CONFIG} says {expected}; weights and "
            "configuration are of two adapters"
        )
    alpha = float(_of_module(config, "alpha_pattern", module, config["lora_alpha"]))
    scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    embedding = name.endswith("_embedding_A")
    transposed = embedding or (bool(config.get("fan_in_fan_out")) and len(a.shape) == 2)
    shape = (outputs, *a.shape[1:])
    if transposed:
        shape = shape[::-1]
    return Factors(module, name, other, rank, scaling, transposed), TensorSpec("float32", shape)


def _of_module(config: Mapping[str, Any], pattern: str, module: str, default: Any) -> Any:
    """The rank or alpha of a module: PEFT takes the first pattern that its path ends with."""
    found = config.get(pattern) or {}
    matching = (value for key, value in found.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matching, default)
