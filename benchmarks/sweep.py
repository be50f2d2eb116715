"""What training with ladle costs beside a bare PyTorch loop and beside `transformers.Trainer`.

    python benchmarks/sweep.py [--rounds 5] [--texts 320] [--output PAGE]

Needs `ladle[demo,vision]`. Every way takes the same steps: the same pre-trained model, as many
examples of the same size, AdamW, warm-up and cosine, clipping. The ways take turns, so that what
else the machine does meets all of them; what counts are the ratios of one round.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ladle.files import cache_folder
from ladle.sweep import Constant, Run, Space
from ladle.sweep.finetune import FineTuning
from ladle.sweep.pause import Pause
from ladle.tasks.demo_text import _data, _model_folder, _rated
from ladle.tasks.demo_vision import _mnist
from ladle.tasks.text import TextClassification
from ladle.tasks.vision import ImageClassification

HERE = Path(__file__).resolve().parent

BATCH, LENGTH, SIZE = 32, 64, 128
LR, DECAY, WARM_UP = 1e-4, 0.01, 0.1
SPACE = Space(
    lr=Constant(LR),
    weight_decay=Constant(DECAY),
    epochs=Constant(1),
    batch_size=Constant(BATCH),
    label_smoothing=Constant(0.0),
    augmentation=Constant(0.0),
    warm_up=Constant(WARM_UP),
)

Way = Callable[[], float]
"""Trains once, and tells the seconds that it took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--output", type=Path, default=HERE / "sweep.md")
    given = parser.parse_args()
    (run,) = SPACE.runs(0, 1)
    whole, frozen = text_task(given.texts, 0), text_task(given.texts, 5)
    images = image_task(given.images)
    parts = [heading(given.rounds)]
    for title, about, ways in (
        (
            "Text",
            f"MiniLM (6 layers, 22.7 M parameters), {given.texts} texts of {LENGTH} tokens, "
            f"{steps(given.texts)} steps of {BATCH}.",
            {
                "bare loop": lambda: bare_text(whole),
                "ladle": lambda: with_ladle(whole, run),
                "transformers.Trainer": lambda: with_trainer(whole),
            },
        ),
        (
            "Text, the lower five of six layers frozen",
            "As above. Ladle computes what frozen layers say once for a sweep, and keeps it; the "
            "first run, which does that, is not counted.",
            {"bare loop": lambda: bare_text(frozen), "ladle": lambda: with_ladle(frozen, run)},
        ),
        (
            "Images",
            f"EfficientNet-Lite0, {given.images} images of 128 x 128, {steps(given.images)} steps "
            f"of {BATCH}.",
            {"bare loop": lambda: bare_images(images), "ladle": lambda: with_ladle(images, run)},
        ),
    ):
        parts.append(f"## {title}\n\n{about}\n\n{table(measured(ways, given.rounds))}")
        given.output.write_text("\n\n".join(parts) + "\n", "utf-8")
    print(given.output.read_text("utf-8"))


def measured(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = way()
            if number:  # The first round fills caches.
                found[name].append(seconds)
    return found


def table(found: dict[str, list[float]]) -> str:
    first = next(iter(found.values()))
    lines = [
        "| | seconds | over the bare loop, median | all rounds |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, seconds in found.items():
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {median(seconds):.2f} | {median(ratios):.3f} | {shown} |")
    return "\n".join(lines)


def heading(rounds: int) -> str:
    return (
        "# Sweeps: what training costs\n\nWritten by `make bench-sweep`. The machine: "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"{torch.get_num_threads()} threads, shared with other work. Python "
        f"{platform.python_version()}, torch {torch.__version__}. Medians of {rounds} rounds, in "
        "which the ways take turns. Only training is timed: all steps, and with ladle the writing "
        "of states to continue from."
    )


def steps(examples: int) -> int:
    return math.ceil(examples / BATCH)


def sentences(count: int) -> list[str]:
    """Film reviews, put together to equal length, so that no way pads more than another."""
    found = [text for text, _ in _rated(_data(cache_folder()))["movie"]]
    return [" ".join(found[5 * i : 5 * i + 5]) for i in range(count)]


def text_task(count: int, freeze: int) -> TextClassification:
    texts = sentences(count)
    labels = [i % 2 for i in range(count)]
    return TextClassification(
        "bench-text",
        _model_folder(),
        {"train": ("train", texts, labels), "held-out": ("held-out", texts[:64], labels[:64])},
        label_names=("no", "yes"),
        max_length=LENGTH,
        freeze=freeze,
    )


def image_task(count: int) -> ImageClassification:
    digits, labels = _mnist()
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    part = (digits[chosen], labels[chosen])
    return ImageClassification(
        "bench-images",
        "timm:tf_efficientnet_lite0",
        {"train": ("train", *part), "held-out": ("held-out", *part)},
        label_names=tuple("0123456789"),
        image_size=SIZE,
        crop=1.0,
    )


def with_ladle(task: Any, run: Run) -> float:
    model = task.build()
    with tempfile.TemporaryDirectory() as folder:
        training = FineTuning(task, model, run, Accelerator(cpu=True))
        pause = Pause(Path(folder) / "state.pt", "bench")
        began = time.perf_counter()
        for _ in training.train():
            pause.keep_at_times(training.state_dict)
        return time.perf_counter() - began


def bare_loop(model: nn.Module, batches: Iterable[tuple[Any, Tensor]], total: int) -> float:
    """What one would write by hand: `model` gives logits of what is in `batches`."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    warm_up = round(WARM_UP * total)

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    began = time.perf_counter()
    for inputs, labels in batches:
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - began


def bare_text(task: TextClassification) -> float:
    model, dataset, collate = hugging_face(task)
    batches = (
        (batch, batch.pop("labels"))
        for batch in DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate)
    )
    model.train()
    return bare_loop(Logits(model), batches, steps(len(dataset)))


def with_trainer(task: TextClassification) -> float:
    from transformers import Trainer, TrainingArguments

    model, dataset, collate = hugging_face(task)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=LR,
            weight_decay=DECAY,
            warmup_steps=round(WARM_UP * steps(len(dataset))),
            lr_scheduler_type="cosine",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, settings, train_dataset=dataset, data_collator=collate)
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


def hugging_face(task: TextClassification) -> tuple[nn.Module, list[Any], Callable[..., Any]]:
    """Model, tokenized examples and collator, as one would have them without ladle."""
    from transformers import AutoTokenizer, DataCollatorWithPadding

    model, texts = task.build(), sentences(len(task.splits["train"]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(task.trainable(name))
    tokenizer = AutoTokenizer.from_pretrained(_model_folder(), local_files_only=True)
    encoded = tokenizer(texts, truncation=True, max_length=LENGTH)
    labels = task.splits["train"].labels
    dataset = [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
        for ids, mask, label in zip(
            encoded["input_ids"], encoded["attention_mask"], labels, strict=True
        )
    ]
    return model, dataset, DataCollatorWithPadding(tokenizer)


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Tensor:
        return self.model(**inputs).logits


def bare_images(task: ImageClassification) -> float:
    from torchvision.transforms import v2

    model = task.build().train()
    # What ladle does too: fine-tunings share the statistics of their base.
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            v2.Resize((SIZE, SIZE), interpolation=v2.InterpolationMode.BICUBIC),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    digits, labels = _mnist()
    chosen = np.random.default_rng(0).permutation(len(labels))[: len(task.splits["train"])]
    dataset = [(digits[i][..., None], int(labels[i])) for i in chosen]

    def collate(examples: list[Any]) -> tuple[Tensor, Tensor]:
        images = torch.stack([prepare(image) for image, _ in examples])
        return images, torch.tensor([label for _, label in examples])

    loader = DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate)
    return bare_loop(model, loader, steps(len(dataset)))


if __name__ == "__main__":
    main()
