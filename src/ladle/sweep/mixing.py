"""Pairs of images mixed into one, and their labels with them; and whether a task can be so trained.

mixup adds two images (Zhang et al., 2018), CutMix puts a rectangle of one into the other (Yun et
al., 2019). Both give an image the probabilities of two classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ladle.errors import BadInput
from ladle.sweep.space import Run
from ladle.tasks.base import Augmenting, Mixable, Trainable
from ladle.tasks.vision_pictures import imported

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images (B, 3, H, W) and labels (B,) to others, and probabilities (B, C) for the labels."""


def check_run(task: Trainable, run: Run) -> None:
    """Refuse what a run asks of a task that it does not offer, before anything is trained.

    Raises:
        BadInput: it augments in a way that the task does not know, or mixes what cannot be mixed.
        MissingExtra: it mixes, and torchvision is not installed.
    """
    if isinstance(task, Augmenting):
        task.check_augmentation(run.augmentation)
    elif isinstance(run.augmentation, str):
        raise BadInput(
            f"augmentation is {run.augmentation!r}, but task {task.name} knows none by name; "
            "give a number from 0 to 1"
        )
    mixer(task, run)


def mixer(task: Trainable, run: Run) -> Mix | None:
    """What a run does to each batch, by torchvision; None for nothing.

    With both `mixup` and `cutmix`, each batch goes through one of them, by the toss of a coin. All
    that is random comes from torch's global generator. The examples of a batch are mixed each with
    the one before it, so a batch of one stays as it is.

    Raises:
        BadInput: it mixes, and the inputs of the task are no images.
        MissingExtra: it mixes, and torchvision is not installed.
    """
    wanted = {"mixup": run.mixup, "cutmix": run.cutmix}
    wanted = {key: alpha for key, alpha in wanted.items() if alpha > 0}
    if not wanted:
        return None
    if not isinstance(task, Mixable):
        keys = " and ".join(f"{key} = {alpha:g}" for key, alpha in wanted.items())
        raise BadInput(
            f"{keys} can only mix images, which the inputs of task {task.name} are not; leave "
            f"{' and '.join(wanted)} out of the space"
        )
    transforms = imported("torchvision.transforms.v2")
    kinds = {"mixup": transforms.MixUp, "cutmix": transforms.CutMix}
    mixes = [kinds[key](alpha=alpha, num_classes=task.class_count) for key, alpha in wanted.items()]
    mix: Mix = mixes[0] if len(mixes) == 1 else transforms.RandomChoice(mixes)
    return mix
