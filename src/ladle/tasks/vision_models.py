"""Image models by name or function: how to build them, fill them, and find their last layer."""

from __future__ import annotations

import hashlib
import inspect
import json
import linecache
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle.errors import BadTask, UnreadableCheckpoint
from ladle.files import cache_folder
from ladle.tasks.vision_clip import (
    HEAD,
    FixedHead,
    ImageTower,
    OpenClip,
    Prompts,
    names_in_tower,
)
from ladle.tasks.vision_pictures import Preprocessing, digest_of_file, imported

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
    """An image classifier: `timm:NAME`, `torchvision:NAME`, `open_clip:NAME`, or a function.

    `final_layer` is the module path of its last linear layer; None asks the library.
    `image_size` is in pixels, None for the model's own. With `prompts`, the head is made by the
    text tower of `open_clip`. No weights are ever downloaded.
    """

    source: str | Builder
    class_count: int
    final_layer: str | None = None
    image_size: int | None = None
    prompts: Prompts | None = None

    def __post_init__(self) -> None:
        _ = self._parts  # so that a wrong source is refused here, where it is given
        if self.library == "open_clip":
            _ = self.data_config
        elif self.prompts is not None:
            raise BadTask(
                f"head = 'zero-shot' is made by a text tower, which {self.name} does not have; "
                "give an open_clip model, or leave it out"
            )

    @property
    def library(self) -> str:
        """`timm`, `torchvision`, `open_clip`, or the empty string for a function."""
        return self._parts[0]

    @property
    def name(self) -> str:
        """The library's name of the model, or MODULE:FUNCTION."""
        return self._parts[1]

    @cached_property
    def data_config(self) -> Mapping[str, Any]:
        """Input size, crop, interpolation, mean and std that the model was trained with."""
        if self.library == "open_clip":
            return self._open_clip.preprocessing
        if self.library != "timm":
            return IMAGENET
        resolve = imported("timm.data").resolve_data_config
        resolved: Mapping[str, Any] = resolve(pretrained_cfg=self._timm_config)
        return resolved

    @cached_property
    def head(self) -> str:
        """Module path of the last linear layer."""
        if self.prompts is not None:
            return HEAD
        return self._find_head(self._skeleton(None))

    @property
    def identity(self) -> bytes:
        """Changes with the architecture; for a function, with the file that it is written in."""
        described = repr((self.library, self.name, self.class_count, self.final_layer))
        if self.library == "open_clip":
            described = repr((self._open_clip.identity, self.class_count, self.prompts))
        if callable(self.source) and (file := inspect.getsourcefile(inspect.unwrap(self.source))):
            # Knows the cells of a notebook too.
            described += "".join(linecache.getlines(file))
        return hashlib.sha256(described.encode()).digest()

    def build(
        self, dropout: float | None, weights: Path | None, rename: Callable[[str], str]
    ) -> nn.Module:
        """The model in eval mode, filled from `weights`, whose keys go through `rename`.

        The last layer is zero unless the weights have one of the right shape, or it is made from
        `prompts`. What no file fills is the same in every call.
        """
        if self.prompts is not None and weights is not None:
            clip = self.whole_clip(weights, rename)
            tower = ImageTower(clip.visual, self._zero_shot_head(clip, weights))
            return _with_dropout(tower, dropout, self.name).eval()
        model = self._skeleton(dropout)
        head = self._find_head(model)
        if weights is None or not self._fill(model, head, weights, rename):
            for parameter in model.get_submodule(head).parameters():
                nn.init.zeros_(parameter)
        return model.eval()

    def check_base(self, weights: Path | None, rename: Callable[[str], str]) -> None:
        """Look at the names in a file, before anything long begins.

        Raises:
            BadTask: `prompts` ask for a text tower, and the file has none.
        """
        if self.prompts is None:
            return
        if weights is None:
            raise BadTask(
                "head = 'zero-shot' is made by the base's text tower; give the file of the CLIP "
                "that the checkpoints were fine-tuned from in weights"
            )
        self._open_clip.check_base(weights, rename)

    def whole_clip(self, weights: Path, rename: Callable[[str], str]) -> Any:
        """The base with both its towers, of an open_clip model."""
        found = {rename(name): tensor for name, tensor in _read_weights(weights).items()}
        return self._open_clip.whole(found, weights)

    def describe_clip(self, preprocessing: Preprocessing) -> str:
        """The text of `open_clip_config.json`, of an open_clip model."""
        return self._open_clip.describe(preprocessing)

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
        if library not in ("timm", "torchvision", "open_clip") or not name:
            raise BadTask(
                f"model {self.source!r} is none of timm:NAME, torchvision:NAME and open_clip:NAME; "
                "write one of these or give a function that builds the model"
            )
        return library, name

    @cached_property
    def _open_clip(self) -> OpenClip:
        return OpenClip(self.name, self.image_size)

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
            if self.library == "open_clip":
                return _with_dropout(
                    self._open_clip.image_tower(self.class_count), dropout, self.name
                )
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
        return _with_dropout(model, dropout, self.name)

    def _zero_shot_head(self, clip: Any, weights: Path) -> FixedHead:
        assert self.prompts is not None  # noqa: S101
        # ImageNet's classes in 80 templates take minutes, or on a CPU an hour: once is enough.
        key = hashlib.sha256(self.identity + digest_of_file(weights)).hexdigest()[:32]
        kept = cache_folder() / "zero-shot-heads" / f"{key}.safetensors"
        with suppress(OSError, SafetensorError, KeyError):
            found = load_file(kept)
            return FixedHead(found["weight"], found["bias"])
        head = self._open_clip.zero_shot_head(clip, self.prompts)
        part = kept.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):  # It is made again then.
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file({"weight": head.weight, "bias": head.bias}, part)
            part.replace(kept)
        return head

    def _find_head(self, model: nn.Module) -> str:
        layers = dict(model.named_modules())
        if self.final_layer is not None:
            path: Any = self.final_layer
        elif self.library == "timm":
            path = self._timm_config.get("classifier")
        elif self.library == "open_clip":
            path = HEAD
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
        if isinstance(model, ImageTower):
            found = {own: found[name] for name, own in names_in_tower(found).items()}
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


def _with_dropout(model: nn.Module, dropout: float | None, name: str) -> nn.Module:
    """The model with this probability in its dropout layers; None keeps what they have."""
    layers = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    if dropout and not layers:
        raise BadTask(f"{name} has no dropout layers; leave dropout out of the sweep's space")
    if dropout is not None:
        for layer in layers:
            layer.p = dropout
    return model


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
