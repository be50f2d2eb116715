"""Image classification: models of timm, torchvision or your own, on arrays or folders of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from ladle.errors import BadInput, BadTask
from ladle.predictions import Array, ExampleNumbers, Metric, accuracy
from ladle.tasks.base import Advance, Role, Split, no_progress
from ladle.tasks.vision_augmentation import augment_of
from ladle.tasks.vision_clip import TEMPLATES, Prompts
from ladle.tasks.vision_models import Architecture, Builder
from ladle.tasks.vision_pictures import (
    Images,
    Pictures,
    Preprocessing,
    digest_of_file,
    read_image_folder,
)
from ladle.tasks.vision_splits import Examples, as_split, check_splits, without_corrupt

__all__ = ["Builder", "Examples", "ImageClassification", "Images", "read_image_folder"]


class ImageClassification:
    """A `Trainable` task: one label per image.

    `model` is `timm:NAME`, `torchvision:NAME`, `open_clip:NAME` (or `open_clip:CONFIG.json`) or a
    function that builds it; nothing is ever downloaded. `weights` is the file of the pre-trained
    model (.safetensors, or .pt and .pth, which are read without running code); `rename` maps its
    keys to the model's. Its head is taken when the shape fits, otherwise the head starts at zero.

    `head` says where the classifier of an open_clip model is: `checkpoint`, in every checkpoint
    (`classification_head`, as in the files of the model soups paper), or `zero-shot`: made by the
    text tower of `weights`, from `class_names` (the label names, if None) and `templates`; no
    fine-tuning changes it, and of a checkpoint only the image tower counts.

    `final_layer` is the module path of the head when the library does not know it. `image_size`
    (pixels) and `crop` (part of the shorter side that is seen, 0..1) are the model's own unless
    given; so are mean, standard deviation and interpolation. `frozen` are module paths whose
    parameters no fine-tuning changes. `workers` is the number of processes
    that read image files. `skip_corrupt` leaves out the files that cannot be decoded, for which it
    decodes every one of them now; `remarks` then say how many. `space` is what a sweep draws from,
    written as in a TOML file; None for the sweep's own.

    Raises:
        BadTask: for wrong labels, splits, models or weights, with what to do about it.
        BadInput: for an image that cannot be read, when it is read.
        MissingExtra: without timm or torchvision.
    """

    def __init__(
        self,
        name: str,
        model: str | Builder,
        splits: Mapping[str, Examples | tuple[Role, Images, npt.ArrayLike]],
        *,
        label_names: Sequence[str],
        weights: str | Path | None = None,
        rename: Callable[[str], str] = str,
        final_layer: str | None = None,
        image_size: int | None = None,
        crop: float | None = None,
        frozen: Sequence[str] = (),
        workers: int = 0,
        skip_corrupt: bool = False,
        head: str = "checkpoint",
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        metric: Metric = accuracy,
        space: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.metric = metric
        self.label_names = tuple(label_names)
        self.space = space
        self.remarks: list[str] = []
        self._examples = {key: Examples(*value) for key, value in splits.items()}
        self._prompts = _prompts(name, head, self.label_names, class_names, templates)
        self._architecture = Architecture(
            model, len(self.label_names), final_layer, image_size, self._prompts
        )
        self._weights = None if weights is None else Path(weights)
        self._rename = rename
        self._crop = crop
        self._frozen = tuple(frozen)
        self._workers = workers
        if len(self.label_names) < 2 or len(set(self.label_names)) < len(self.label_names):
            raise BadTask(f"task {name} needs at least two different label names")
        if (image_size is not None and image_size < 1) or (crop is not None and not 0 < crop <= 1):
            raise BadTask(
                f"image_size = {image_size} and crop = {crop} cannot be used in task {name}; "
                "image_size starts at 1 pixel, crop lies above 0 and up to 1"
            )
        check_splits(name, self._examples, len(self.label_names))
        self._architecture.check_base(self._weights, rename)
        if skip_corrupt:
            for key, part in self._examples.items():
                self._examples[key], remarks = without_corrupt(key, part)
                self.remarks += remarks

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """The splits by name; the first look reads every byte of the images, for the digests."""
        return {key: as_split(key, part) for key, part in self._examples.items()}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What happens to an image before the model sees it."""
        config = self._architecture.data_config
        return Preprocessing(
            size=self._architecture.image_size or int(config["input_size"][-1]),
            crop=self._crop or float(config["crop_pct"]),
            squash=config.get("crop_mode") == "squash",
            interpolation=str(config["interpolation"]),
            mean=tuple(map(float, config["mean"])),
            std=tuple(map(float, config["std"])),
        )

    @cached_property
    def digest(self) -> str:
        """Sha256 over model, weights file, preprocessing and label names.

        Of a function that builds the model, the file it is written in counts, not its imports.
        """
        total = hashlib.sha256(self._architecture.identity)
        total.update(repr((self.preprocessing, self.label_names)).encode())
        if self._weights is not None:
            total.update(digest_of_file(self._weights))
        return total.hexdigest()

    @property
    def head(self) -> str:
        """Module path of the final linear layer."""
        return self._architecture.head

    def build(self, *, dropout: float | None = None) -> nn.Module:
        """The pre-trained model in eval mode; its head is zero unless it came with the weights."""
        model = self._architecture.build(dropout, self._weights, self._rename)
        paths = {path for path, _ in model.named_modules()}
        if unknown := [path for path in self._frozen if path not in paths]:
            raise BadTask(
                f"frozen names {', '.join(unknown)}, which {self._architecture.name} does not "
                "have; give paths out of model.named_modules()"
            )
        return model

    def trainable(self, parameter: str) -> bool:
        """Whether the parameter, BatchNorm's scale and shift included, is outside `frozen`."""
        return not any(parameter.startswith(f"{path}.") for path in self._frozen)

    def batches(
        self, *, batch_size: int, augmentation: float | str, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (images, labels) in random order; the last batch may be smaller.

        `augmentation` above 0 applies two random operations of RandAugment to each image; their
        strength grows with it. A string is `trivial` or a policy as timm writes it, `rand-m9-n2`
        for one. They follow from `generator`, however many workers there are.
        """
        augment = augment_of(augmentation, self.preprocessing)
        training = [part for part in self._examples.values() if part.role == "train"]
        if not training:
            raise BadTask(f"task {self.name} has no train split; give one split the role train")
        labels = torch.from_numpy(np.asarray(training[0].labels, dtype=np.int64))
        order = torch.randperm(len(labels), generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        pictures = Pictures(
            training[0].images,
            self.preprocessing.resize(),
            augment,
            seed,
            border=training[0].border,
        )
        for chosen, images in self._in_batches(pictures, torch.split(order, batch_size)):
            yield images, labels[chosen]

    def check_augmentation(self, augmentation: float | str) -> None:
        """Raise `BadInput` where `batches` would, for an augmentation that there is none of."""
        augment_of(augmentation, self.preprocessing)

    @property
    def class_count(self) -> int:
        """How many classes there are; images can be mixed: see `Mixable`."""
        return len(self.label_names)

    def labelled(
        self, model: nn.Module, split: str, batches: Sequence[ExampleNumbers]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of these examples of a split, batch by batch, as `predict` sees them."""
        part = self._examples[split]
        labels = torch.from_numpy(np.asarray(part.labels, dtype=np.int64))
        pictures = Pictures(part.images, self.preprocessing.resize(), border=part.border)
        chosen = [torch.from_numpy(batch) for batch in batches]
        for batch, images in self._in_batches(pictures, chosen):
            yield images, labels[batch]

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits (B, C) for images from `batches` or `labelled`; differentiable.

        When it trains on a CPU, the model's weights are laid out channels-last in memory.
        """
        if torch.is_grad_enabled() and next(model.parameters()).device.type == "cpu":
            # Nearly halves the time of a training step, and is free once done.
            model.to(memory_format=torch.channels_last)
        # The running statistics stay those of the base. All fine-tunings share them, so averaged
        # weights do not meet averaged statistics that each belong to other weights; and a step
        # does not depend on the size of its batch. Scale and shift still train.
        normalising = (layer for layer in model.modules() if isinstance(layer, _BatchNorm))
        with _in_eval_mode(normalising):
            return _forward(model, inputs)

    def predict(
        self,
        model: nn.Module,
        split: str,
        *,
        device: torch.device,
        batch_size: int,
        advance: Advance = no_progress,
    ) -> Array:
        """Logits (N, C), float32, of every image of `split` in order, in eval mode."""
        if split not in self._examples:
            raise BadInput(
                f"task {self.name} has no split {split!r}; choose from {', '.join(self._examples)}"
            )
        total = len(self._examples[split].images)
        batches = self.in_batches(split, batch_size=batch_size)
        logits = np.empty((total, len(self.label_names)), dtype=np.float32)
        said = self.predict_some(model, split, batches, device=device)
        for batch, rows in zip(batches, said, strict=True):
            logits[batch] = rows
            advance(len(batch))
        return logits

    def in_batches(self, split: str, *, batch_size: int) -> list[ExampleNumbers]:
        """One image after the other: see `PredictsInBatches`."""
        order = np.arange(len(self._examples[split].images))
        return self.arranged(split, order, batch_size=batch_size)

    def arranged(
        self, split: str, order: ExampleNumbers, *, batch_size: int
    ) -> list[ExampleNumbers]:
        """`order`, cut in batches: see `PredictsSome`."""
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    @torch.inference_mode()
    def predict_some(
        self,
        model: nn.Module,
        split: str,
        batches: Sequence[ExampleNumbers],
        *,
        device: torch.device,
    ) -> Generator[Array, None, None]:
        """Logits (B, C), float32, batch by batch, in eval mode."""
        part = self._examples[split]
        pictures = Pictures(part.images, self.preprocessing.resize(), border=part.border)
        with _in_eval_mode(model.modules()):
            chosen = [torch.from_numpy(batch) for batch in batches]
            for _, images in self._in_batches(pictures, chosen):
                yield _forward(model, images.to(device)).float().cpu().numpy()

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json`; for timm, as on its hub.

        `timm.create_model("local-dir:FOLDER", pretrained=True)` reads such a folder. With a
        zero-shot head it is the whole CLIP, the text tower that of the base, and
        `open_clip.create_model("local-dir:FOLDER")` reads it.
        """
        state = model.state_dict()
        if self._prompts is not None and self._weights is not None:
            base = self._architecture.whole_clip(self._weights, self._rename)
            state = {**base.state_dict(), **state}
            clip_config = self._architecture.describe_clip(self.preprocessing)
            (Path(folder) / "open_clip_config.json").write_text(clip_config, encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        size = self.preprocessing.size
        data_config = {
            "input_size": [3, size, size],
            "interpolation": self.preprocessing.interpolation,
            "crop_pct": self.preprocessing.crop,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }
        text = self._architecture.describe(self.label_names, data_config)
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")

    def _in_batches(
        self, pictures: Pictures, chosen: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[Tensor] = DataLoader(
            pictures,  # type: ignore[arg-type]  # a loader needs no more than these methods
            batch_sampler=[indices.tolist() for indices in chosen],
            collate_fn=_as_they_are,
            num_workers=self._workers,
            # Without one of its own, the loader advances the generator of the process.
            generator=torch.Generator(),
        )
        for indices, images in zip(chosen, loader, strict=True):
            yield indices, self.preprocessing.normalise(images)


def _as_they_are(images: Any) -> Any:
    return images


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of images that are moved to where the model is, in the model's dtype."""
    parameter = next(model.parameters())
    moved = images.to(parameter.device, parameter.dtype)
    if parameter.device.type == "cpu":
        # What makes convolutions choose their fast kernels; other models do not mind.
        moved = moved.contiguous(memory_format=torch.channels_last)
    logits: Tensor = model(moved)
    return logits


@contextmanager
def _in_eval_mode(layers: Iterable[nn.Module]) -> Iterator[None]:
    """These layers, each alone, in eval mode; then back as they were."""
    awake = [layer for layer in layers if layer.training]
    for layer in awake:
        layer.training = False
    try:
        yield
    finally:
        for layer in awake:
            layer.training = True


def _prompts(
    task: str,
    head: str,
    label_names: tuple[str, ...],
    class_names: Sequence[str] | None,
    templates: Sequence[str] | None,
) -> Prompts | None:
    """What a zero-shot head is made from; None for one that is in the checkpoints."""
    if head not in ("checkpoint", "zero-shot"):
        raise BadTask(f"head is {head!r} in task {task}; choose 'checkpoint' or 'zero-shot'")
    if head == "checkpoint":
        given = {"class_names": class_names, "templates": templates}
        if unused := [key for key, value in given.items() if value is not None]:
            raise BadTask(
                f"{' and '.join(unused)} of task {task} belong to head = 'zero-shot'; add it, or "
                "leave them out"
            )
        return None
    if class_names is not None and len(class_names) != len(label_names):
        raise BadTask(
            f"class_names of task {task} has {len(class_names)} names, and there are "
            f"{len(label_names)} labels; give one for each, in their order"
        )
    return Prompts(
        label_names if class_names is None else tuple(class_names),
        TEMPLATES if templates is None else tuple(templates),
    )
