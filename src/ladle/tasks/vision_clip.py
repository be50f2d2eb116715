"""Image towers of open_clip as classifiers, with heads that their text towers make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.checkpoint import open_checkpoint
from ladle.errors import BadTask, LayoutMismatch
from ladle.tasks.vision_pictures import Preprocessing, imported
from ladle.wording import closest

HEAD = "classification_head"
"""What the files of the model soups paper call the classifier."""

TOWER = "visual"
"""What open_clip calls the image tower, and CLIP's authors before it."""

TEMPLATES = ("a photo of a {}.",)

_NAMED = "openai-imagenet"
"""The 1,000 class names and 80 templates that CLIP's authors wrote for ImageNet."""

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Prompts:
    """What a zero-shot head is made from: a name for each class, templates with {} in its place."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        if not self.templates:
            raise BadTask("templates is empty; give at least one, as in 'a photo of a {}.'")
        for template in self.templates:
            if "{}" not in template:
                raise BadTask(
                    f"template {template!r} has no {{}} where the class name goes; write it as in "
                    "'a photo of a {}.'"
                )

    def texts_of(self, name: str) -> list[str]:
        """All templates, filled in with one class name."""
        return [template.replace("{}", name) for template in self.templates]


def texts_named(key: str, given: str, folder: Path) -> list[str]:
    """The lines of a file, or of what open_clip itself has under the name `openai-imagenet`."""
    if given == _NAMED:
        library = _library()
        if key == "class_names":
            return list(library.IMAGENET_CLASSNAMES)
        return [template("{}") for template in library.OPENAI_IMAGENET_TEMPLATES]
    file = folder / Path(given).expanduser()
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTask(
            f"{key} = {given!r} cannot be read ({file}); give a list, a text file with one on each "
            f"line, or {_NAMED!r}"
        ) from error
    return [line for line in lines if line.strip()]


class ImageTower(nn.Module):
    """An image tower with a linear classifier on its L2-normalised features."""

    def __init__(self, visual: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.classification_head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        features = self.visual(images)
        if isinstance(features, tuple):  # The tokens come with them.
            features = features[0]
        logits: Tensor = self.classification_head(F.normalize(features, dim=-1))
        return logits

    def takes(self, names: Collection[str]) -> dict[str, str]:
        """Of a checkpoint's tensors, those of tower and head, and what they are called here."""
        found = names_in_tower(names)
        parts = {own.partition(".")[0] for own in found.values()}
        if TOWER not in parts:
            raise LayoutMismatch(
                f"the checkpoints hold no image tower of open_clip: none of their tensors "
                f"({', '.join(sorted(names)[:3])}, ...) lies in {TOWER!r}"
            )
        if HEAD not in parts and not isinstance(self.classification_head, FixedHead):
            raise LayoutMismatch(
                f"the checkpoints hold no classifier ({HEAD}.weight); give head = 'zero-shot' in "
                "the task, which makes one from the base's text tower"
            )
        if len(set(found.values())) < len(found):
            raise LayoutMismatch(
                f"the checkpoints hold several models ({TOWER!r} is there more than once); save "
                "the one to average on its own"
            )
        return found


class FixedHead(nn.Module):
    """A linear layer that is no part of the state dict: all checkpoints are judged with it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D)."""
        return F.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class OpenClip:
    """A CLIP model of open_clip by name, or by the path of its configuration file.

    Such a file is a model configuration of open_clip, or an `open_clip_config.json` that has one
    under `model_cfg` beside a `preprocess_cfg`. Nothing is ever downloaded.
    """

    source: str
    image_size: int | None = None

    @cached_property
    def preprocessing(self) -> Mapping[str, Any]:
        """Input size, crop, interpolation, mean and std, in timm's words.

        Of a model by name: what all weights agree in that open_clip knows for it, or open_clip's
        defaults.
        """
        model, said = self._config
        config = {**asdict(_library().transform.PreprocessCfg()), **said}
        size = model["vision_cfg"].get("image_size", config["size"])
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1 or config["resize_mode"] not in ("shortest", "squash"):
            raise BadTask(
                f"{self.source} wants images of {size} pixels, resize_mode {config['resize_mode']};"
                " ladle prepares square ones, by 'shortest' or 'squash'; use a task of your own"
            )
        (side,) = sides
        return {
            "input_size": (3, side, side),
            "crop_pct": 1.0,
            "crop_mode": "squash" if config["resize_mode"] == "squash" else "center",
            # As open_clip does where training was to choose at random.
            "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
        }

    @property
    def identity(self) -> str:
        """Changes with the configuration, wherever its file lies."""
        return json.dumps(self._config, sort_keys=True)

    def image_tower(self, class_count: int) -> ImageTower:
        """The image tower with random weights, and a linear head."""
        model, _ = self._config
        # The text tower is not wanted here; this is the smallest there can be.
        text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        arguments = _without({**model, "text_cfg": text}, "custom_text", "multimodal_cfg")
        clip = _library().CLIP(**arguments)
        return ImageTower(self._sized(clip).visual, nn.Linear(model["embed_dim"], class_count))

    def check_base(self, file: Path, rename: Callable[[str], str]) -> None:
        """
        Raises:
            BadTask: the file lacks a text tower, or this one's tokenizer cannot be had.
        """
        self._check_local()
        names = [rename(name) for name in open_checkpoint(file).layout.names]
        there = _from_the_front(names)
        with torch.device("meta"):
            wanted = self._whole().state_dict()
        lacking = [name for name in wanted if name not in there and not _is_of(name, TOWER)]
        if lacking:
            raise BadTask(
                f"weights {file} hold no text tower ({lacking[0]} is missing), and head = "
                "'zero-shot' is made by it; give the whole CLIP that the checkpoints were "
                "fine-tuned from"
            )

    def whole(self, state: Mapping[str, Tensor], file: Path) -> Any:
        """Both towers in eval mode, filled with what was read from `file`."""
        clip = self._whole()
        own = _from_the_front(state)
        wanted = clip.state_dict()
        wrong = [
            f"{name} is {'missing' if name not in own else tuple(state[own[name]].shape)}"
            for name, tensor in wanted.items()
            if name not in own or state[own[name]].shape != tensor.shape
        ]
        if wrong:
            raise BadTask(
                f"weights {file} do not fit {self.source}: {'; '.join(wrong[:3])}; give the file "
                "of this model"
            )
        clip.load_state_dict({name: state[own[name]] for name in wanted})
        return clip.eval()

    def zero_shot_head(self, clip: Any, prompts: Prompts) -> FixedHead:
        """For each class the mean of its texts' embeddings, times the model's scale.

        Embeddings are normalised before and after the mean, as CLIP's authors do.
        """
        tokens = self._tokenizer()
        text = self._config[0]["text_cfg"]
        device = torch.device("cpu")
        if torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator() or device
        clip = clip.to(device)
        room = sys.maxsize if "hf_model_name" in text else text.get("vocab_size", 49408)
        rows = []
        with torch.no_grad():
            for name in prompts.class_names:
                texts = tokens(prompts.texts_of(name))
                if int(texts.max()) >= room:
                    raise BadTask(
                        f"the tokenizer of {self.source} knows more tokens than the {room} of its "
                        "text tower; correct vocab_size or hf_tokenizer_name in its configuration"
                    )
                said = [
                    clip.encode_text(t.to(device), normalize=True)
                    for t in texts.split(_TEXTS_AT_ONCE)
                ]
                rows.append(F.normalize(torch.cat(said).mean(dim=0), dim=0))
            weight = (clip.logit_scale.exp() * torch.stack(rows)).cpu()
            bias = torch.zeros(len(rows))
            if getattr(clip, "logit_bias", None) is not None:
                bias += clip.logit_bias.cpu()
        clip.cpu()
        return FixedHead(weight.clone(), bias)

    def describe(self, preprocessing: Preprocessing) -> str:
        """The text of the `open_clip_config.json` that open_clip wants beside the weights."""
        model, _ = self._config
        prepared = {
            "size": preprocessing.size,
            "mode": "RGB",
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "interpolation": preprocessing.interpolation,
            "resize_mode": "squash" if preprocessing.squash else "shortest",
        }
        return json.dumps({"model_cfg": model, "preprocess_cfg": prepared}, indent=2) + "\n"

    @cached_property
    def _config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What open_clip is told to build, and what is said of the images."""
        if self.source.endswith(".json"):
            model, said = _read_config(Path(self.source))
        else:
            model, said = _known_config(self.source)
        model = deepcopy(model)
        if self.image_size is not None:
            model["vision_cfg"]["image_size"] = self.image_size
        if "timm_model_name" in model["vision_cfg"]:
            model["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in model["text_cfg"]:
            model["text_cfg"]["hf_model_pretrained"] = False
        return model, said

    def _whole(self) -> Any:
        model, _ = self._config
        library = _library()
        kind = library.CLIP
        if model.get("custom_text") or "hf_model_name" in model["text_cfg"]:
            kind = library.CoCa if "multimodal_cfg" in model else library.CustomTextCLIP
        return self._sized(kind(**_without(model, "custom_text")))

    def _sized(self, clip: Any) -> Any:
        # A tower of timm's is not told the size when it is made.
        if self.image_size is not None and hasattr(clip.visual, "set_input_size"):
            clip.visual.set_input_size(self.image_size)
        return clip

    def _check_local(self) -> None:
        text = self._config[0]["text_cfg"]
        for key in ("hf_model_name", "hf_tokenizer_name"):
            name = text.get(key)
            if name and not Path(name).is_dir():
                raise BadTask(
                    f"{self.source} takes {name!r} ({key}) from a hub, and ladle downloads "
                    "nothing; give a configuration file in which it is a local folder"
                )

    def _tokenizer(self) -> Any:
        text = self._config[0]["text_cfg"]
        options = {"context_length": text.get("context_length", 77)}
        options |= text.get("tokenizer_kwargs") or {}
        if name := text.get("hf_tokenizer_name"):
            imported("transformers", extra="text")
            mode = text.get("tokenizer_mode")
            return _library().tokenizer.HFTokenizer(name, tokenizer_mode=mode, **options)
        return _library().SimpleTokenizer(**options)


def _library() -> Any:
    return imported("open_clip", "open-clip-torch", extra="clip")


def _known_config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    library = _library()
    known = library.list_models()
    if name not in known:
        close = closest(name, known)
        nearest = f" (did you mean {close!r}?)" if close else ""
        raise BadTask(
            f"open_clip has no model {name!r}{nearest}; choose one of open_clip.list_models(), or "
            "give the path of its CONFIG.json"
        )
    keys = _preprocess_keys()
    tags = library.list_pretrained_tags_by_model(name)
    weights = [library.pretrained.get_pretrained_cfg(name, tag) for tag in tags]
    said = [{key: one[key] for key in keys if one.get(key) is not None} for one in weights]
    agreed = said[0] if said and all(one == said[0] for one in said) else {}
    return library.get_model_config(name), agreed


def _read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadTask(f"{file} is no configuration of open_clip ({error})") from error
    content = content if isinstance(content, dict) else {}
    model = content.get("model_cfg", content)
    if lacking := [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]:
        raise BadTask(f"{file} is no configuration of open_clip: it lacks {', '.join(lacking)}")
    model = deepcopy(model)
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if local := model["text_cfg"].get(key):
            # Beside the file, or somewhere else altogether.
            beside = file.parent / local
            model["text_cfg"][key] = str(beside) if beside.is_dir() else local
    said = content.get("preprocess_cfg") or {}
    return model, {key: said[key] for key in _preprocess_keys() if said.get(key) is not None}


def _preprocess_keys() -> Sequence[str]:
    return [*asdict(_library().transform.PreprocessCfg())]


def _without(model: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return deepcopy({key: value for key, value in model.items() if key not in keys})


def names_in_tower(names: Collection[str]) -> dict[str, str]:
    """The tensors of a checkpoint that an `ImageTower` may take, and what they are called there.

    They may lie anywhere: in `visual.`, in `module.visual.`, or, in the files of the model soups
    paper, in `model.visual.`.
    """
    own = {name: _own_name(name, TOWER) or _own_name(name, HEAD) for name in names}
    return {name: called for name, called in own.items() if called}


def _own_name(name: str, part: str) -> str | None:
    """The end of a tensor's name from `part` on; None where that is no part of it."""
    parts = name.split(".")
    return ".".join(parts[parts.index(part) :]) if part in parts[:-1] else None


def _is_of(name: str, part: str) -> bool:
    return name.startswith(f"{part}.")


def _from_the_front(names: Collection[str]) -> dict[str, str]:
    """Tensors by their names without what stands before the image tower's in all of them."""
    first = next((name for name in names if _own_name(name, TOWER)), "")
    front = first.removesuffix(_own_name(first, TOWER) or first)
    return {name.removeprefix(front): name for name in names}
