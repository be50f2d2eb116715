"""Image models by name or function: how to build them, fill them, and find their last layer."""

from __future__ import annotations

import hashlib
import inspect
import json
import linecache
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle.errors import BadTask, UnreadableCheckpoint
from ladle.tasks.vision_pictures import imported

Builder = Callable[[int, float | None], nn.Module]
"""Called with the number of classes and the dropout (None: the model's own)."""

IMAGENET = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
"""How images are prepared for a model that does not say so itself, in timm's words."""


@dataclass(frozen=True)
class Architecture:
    """An image classifier: `timm:NAME`, `torchvision:NAME`, or a function that builds it.

    `final_layer` is the module path of its last linear layer; None asks the library.
    `image_size` is in pixels, None for the model's own. No weights are ever downloaded.
    """

    source: str | Builder
    class_count: int
    final_layer: str | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        _ = self._parts  # so that a wrong source is refused here, where it is given

    @property
    def library(self) -> str:
        """`timm`, `torchvision`, or the empty string for a function."""
        return self._parts[0]

    @property
    def name(self) -> str:
        """The library's name of the model, or MODULE:FUNCTION."""
        return self._parts[1]

    @cached_property
    def data_config(self) -> Mapping[str, Any]:
        """Input size, crop, interpolation, mean and std that the model was trained with."""
        if self.library != "timm":
            return IMAGENET
        resolve = imported("timm.data").resolve_data_config
        resolved: Mapping[str, Any] = resolve(pretrained_cfg=self._timm_config)
        return resolved

    @cached_property
    def head(self) -> str:
        """Module path of the last linear layer."""
        return self._find_head(self._skeleton(None))

    @property
    def identity(self) -> bytes:
        """Changes with the architecture; for a function, with the file that it is written in."""
        described = repr((self.library, self.name, self.class_count, self.final_layer))
        if callable(self.source) and (file := inspect.getsourcefile(inspect.unwrap(self.source))):
            # Knows the cells of a notebook too.
            described += "".join(linecache.getlines(file))
        return hashlib.sha256(described.encode()).digest()

    def build(
        self, dropout: float | None, weights: Path | None, rename: Callable[[str], str]
    ) -> nn.Module:
        """The model in eval mode, filled from `weights`, whose keys go through `rename`.

        The last layer is zero unless the weights have one of the right shape. What no file fills
        is the same in every call.
        """
        model = self._skeleton(dropout)
        head = self._find_head(model)
        if weights is None or not self._fill(model, head, weights, rename):
            for parameter in model.get_submodule(head).parameters():
                nn.init.zeros_(parameter)
        return model.eval()

    def describe(self, label_names: tuple[str, ...], data_config: Mapping[str, object]) -> str:
        """The text of `config.json`; for timm, what timm itself would write for its hub."""
        config: dict[str, object] = {
            # Without the tag that timm appends for a set of pre-trained weights.
            "architecture": self.name.partition(".")[0] if self.library == "timm" else self.name,
            "num_classes": self.class_count,
            "label_names": list(label_names),
        }
        if self.library == "timm":
            if self._size_arguments:
                config["model_args"] = self._size_arguments
            kept = ("first_conv", "classifier", "crop_mode", "fixed_input_size", "license")
            config["pretrained_cfg"] = {
                **{key: self._timm_config[key] for key in kept if key in self._timm_config},
                **data_config,
                "num_classes": self.class_count,
                "custom_load": False,
            }
        else:
            config |= {"library": self.library, "data_config": dict(data_config)}
        return json.dumps(config, indent=2) + "\n"

    @cached_property
    def _parts(self) -> tuple[str, str]:
        if callable(self.source):
            function = inspect.unwrap(self.source)
            if not (inspect.isfunction(function) or inspect.isclass(function)):
                # What such an object holds could change the model behind the digest's back.
                raise BadTask(
                    f"model {function!r} is neither a function nor a class; wrap it in a function "
                    "of (class count, dropout)"
                )
            return "", f"{function.__module__}:{function.__qualname__}"
        library, _, name = self.source.partition(":")
        if library not in ("timm", "torchvision") or not name:
            raise BadTask(
                f"model {self.source!r} is neither timm:NAME nor torchvision:NAME; write one of "
                "these or give a function that builds the model"
            )
        return library, name

    @cached_property
    def _timm_config(self) -> Mapping[str, Any]:
        timm = imported("timm")
        if not timm.is_model(self.name):
            raise BadTask(f"timm has no model {self.name!r}; choose one of timm.list_models()")
        config: Mapping[str, Any] = timm.get_pretrained_cfg(self.name).to_dict()
        return config

    @property
    def _size_arguments(self) -> dict[str, int]:
        """What timm must be told for a model of fixed input size to accept our images."""
        fixed = self._timm_config.get("fixed_input_size", False)
        return {"img_size": self.image_size} if fixed and self.image_size else {}

    def _skeleton(self, dropout: float | None) -> nn.Module:
        # Two builds with different random tensors would be two bases, and fine-tunings of
        # different bases cannot be averaged.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            if callable(self.source):
                return self.source(self.class_count, dropout)
            if self.library == "timm":
                return self._build_with_timm(dropout)
            return self._build_with_torchvision(dropout)

    def _build_with_timm(self, dropout: float | None) -> nn.Module:
        options: dict[str, Any] = {} if dropout is None else {"drop_rate": dropout}
        options |= self._size_arguments
        create = imported("timm").create_model
        model: nn.Module = create(
            self.name, pretrained=False, num_classes=self.class_count, **options
        )
        return model

    def _build_with_torchvision(self, dropout: float | None) -> nn.Module:
        models = imported("torchvision.models")
        if self.name not in models.list_models(module=models):
            raise BadTask(
                f"torchvision has no classifier {self.name!r}; choose one of "
                "torchvision.models.list_models(module=torchvision.models)"
            )
        model: nn.Module = models.get_model(self.name, weights=None, num_classes=self.class_count)
        if dropout is not None:
            layers = [part for part in model.modules() if isinstance(part, nn.Dropout)]
            if not layers and dropout > 0:
                raise BadTask(
                    f"{self.name} has no dropout layers; leave dropout out of the sweep's space"
                )
            for layer in layers:
                layer.p = dropout
        return model

    def _find_head(self, model: nn.Module) -> str:
        layers = dict(model.named_modules())
        if self.final_layer is not None:
            path: Any = self.final_layer
        elif self.library == "timm":
            path = self._timm_config.get("classifier")
        else:
            linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
            path = linear[-1] if linear else None
        # timm names two classifiers for a distilled model; neither is the head.
        layer = layers.get(path) if isinstance(path, str) else None
        if not isinstance(layer, nn.Linear) or layer.out_features != self.class_count:
            raise BadTask(
                f"the last layer of {self.name} ({path}) is not a linear layer with "
                f"{self.class_count} outputs; name that layer in final_layer, or take another model"
            )
        return str(path)

    def _fill(self, model: nn.Module, head: str, file: Path, rename: Callable[[str], str]) -> bool:
        """Copy the weights of a file into the model; whether they included its head."""
        found = {rename(name): tensor for name, tensor in _read_weights(file).items()}
        wanted = model.state_dict()
        of_head = [name for name in wanted if name.rpartition(".")[0] == head]
        fits = all(name in found and found[name].shape == wanted[name].shape for name in of_head)
        if not fits:
            for name in of_head:
                del wanted[name]
                found.pop(name, None)
        wrong = [f"{name} is missing" for name in wanted if name not in found]
        wrong += [f"{name} is not in the model" for name in found if name not in wanted]
        wrong += [
            f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise BadTask(
                f"weights {file} do not fit {self.name}: {'; '.join(wrong[:3])}{more}; give the "
                "file of this architecture, or a function that renames its tensors"
            )
        model.load_state_dict(found, strict=False)
        return fits


def _read_weights(file: Path) -> dict[str, Tensor]:
    advice = "give a .safetensors file, or a state dict written by torch.save"
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableCheckpoint(f"{file} cannot be read ({reason}); {advice}") from error
    for nested in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(nested), Mapping):
            loaded = loaded[nested]
    if not isinstance(loaded, Mapping) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise UnreadableCheckpoint(f"{file} holds no state dict; {advice}")
    return dict(loaded)
