"""Flags that mean the same on every command."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from ladle.cli import screen
from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.cluster import Workers
    from ladle.evaluate import Evaluator
    from ladle.soup import Gathered, Ingredient, Pool
    from ladle.tasks import Task

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Bytes from a text such as 500MB or 5GB, for a click callback."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)", value.strip(), re.IGNORECASE)
    number = int(float(found.group(1)) * _UNITS[found.group(2).upper()]) if found else 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is no size; write it as in 500MB or 5GB")
    return number


def place(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | Path | None:
    """A path whose ~ no shell has replaced, or a URL as it is."""
    return value if value is None or "://" in value else Path(value).expanduser()


def home(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A path whose ~ no shell has replaced, as in --store=~/scores.sqlite."""
    return None if value is None else value.expanduser()


def anywhere(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """A path, or a URL that fsspec knows."""
    from ladle.location import located

    return None if value is None else located(value)


inputs = click.argument("inputs", nargs=-1, required=True, metavar="CKPT...")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, no more.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
output = click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH|URL",
    callback=anywhere,
    help="A folder, or a file that ends in .safetensors, .pt, .pth, .ckpt or .pth.tar.",
)
folder = click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH|URL",
    callback=anywhere,
    help="A new folder.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that ladle wrote.")
dry_run = click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
seed = click.option("--seed", type=int, default=0, show_default=True)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
batch_size = click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
amp = click.option(
    "--amp", is_flag=True, help="Evaluate in bfloat16 where PyTorch's autocast does; quicker."
)
channels_last = click.option(
    "--channels-last", is_flag=True, help="Evaluate with weights laid out for convolutions."
)
task = click.option(
    "--task", help="demo-text, demo-vision, a .toml file, or FILE.py:NAME.", metavar="TASK"
)
skip_corrupt = click.option(
    "--skip-corrupt", is_flag=True, help="Leave out images that cannot be read, and say so."
)
base = click.option(
    "--base",
    metavar="CKPT",
    callback=place,
    help="What the checkpoints were fine-tuned from; LoRA adapters are judged on it.",
)
dtype = click.option(
    "--dtype",
    type=click.Choice(["source", "float32", "bfloat16", "float16"]),
    default="source",
    show_default=True,
    help="Of the written weights.",
)
max_shard_size = click.option(
    "--max-shard-size", callback=size, default="5GB", show_default=True, help="As in 500MB or 5GB."
)
integers = click.option(
    "--integers",
    type=click.Choice(["equal", "first", "max"]),
    default="equal",
    show_default=True,
    help="Where integer tensors differ: refuse, take the first's, take the maximum.",
)


bn = click.option(
    "--bn",
    type=click.Choice(["average", "recalibrate", "best"]),
    default="best",
    show_default=True,
    help="BatchNorm statistics: averaged, re-estimated on training data, or what scores better.",
)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


store = click.option(
    "--store",
    type=click.Path(path_type=Path),
    callback=home,
    metavar="FILE",
    help="Keep evaluations in this file, and use those that it has; commands may share it.",
)
ray = click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Work on a Ray cluster: HOST:PORT, ray://HOST:PORT, or auto for the one of this machine.",
)
workers = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="With --ray, how many work at once; as it stands, all that there is room for.",
)
samples = click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help="N random examples of each split, the same for every model and soup, instead of all.",
)
rank = click.option(
    "--rank",
    type=click.IntRange(1),
    help="Of a soup of LoRA adapters: truncated to it. As it stands, exact.",
)
writing = together(output, overwrite, dry_run, dtype, max_shard_size, rank, integers)
always = together(as_json, debug)

_choosing = together(
    click.option(
        "--use-ema/--no-use-ema",
        default=True,
        show_default=True,
        help="Where a file has an exponential moving average too.",
    ),
    click.option("--last", type=click.IntRange(1), metavar="N", help="The last N of every run."),
    click.option("--min-step", type=int, help="Those from this step on."),
    click.option("--max-step", type=int, help="Those up to this step."),
    click.option(
        "--top-k", type=click.IntRange(1), metavar="K", help="The best K by a recorded metric."
    ),
    click.option("--metric", metavar="NAME", help="Which, where several were recorded."),
    click.option("--mode", type=click.Choice(["max", "min"]), help="Whether high or low is good."),
)


@dataclass(frozen=True)
class Opening:
    """How inputs become ingredients: the flags that choose among what is there."""

    use_ema: bool
    last: int | None
    min_step: int | None
    max_step: int | None
    top_k: int | None
    metric: str | None
    mode: Literal["max", "min"] | None

    def gather(
        self, inputs: tuple[str, ...], *, quietly: bool = False, within: bool = True
    ) -> Gathered:
        """The ingredients, layouts unseen; remarks go to the screen, or not if `quietly`."""
        from ladle.runs import Choice
        from ladle.soup import gather

        by_metric = (self.metric, self.mode) if self.top_k else (None, None)
        choice = Choice(self.last, self.min_step, self.max_step, self.top_k, *by_metric)
        found = gather(inputs, use_ema=self.use_ema, choice=choice, within=within)
        for text in () if quietly else found.remarks:
            screen.remark(text)
        return found

    def pool(self, inputs: tuple[str, ...], *, within: bool = True) -> Pool:
        """The ingredients as a pool."""
        from ladle.soup import Pool

        found = self.gather(inputs, within=within)
        return Pool.of(found.ingredients, found.remarks)


@dataclass(frozen=True)
class Evaluating:
    """How the models of a task are run."""

    skip_corrupt: bool
    device: str
    batch_size: int
    amp: bool
    channels_last: bool

    @property
    def given(self) -> list[str]:
        """The flags that were given, of those that mean nothing without a task."""
        of_tasks = ("skip_corrupt", "amp", "channels_last")
        return [f"--{name.replace('_', '-')}" for name in of_tasks if getattr(self, name)]

    def load(self, reference: str) -> Task:
        """The task; before that, it is sure that there is such a device."""
        from ladle.evaluate import find_device
        from ladle.tasks import load_task

        find_device(self.device)
        return load_task(reference, skip_corrupt=self.skip_corrupt)

    def evaluator(self, task: Task, **further: Any) -> Evaluator:
        """What evaluates on the task, with progress on the screen."""
        from ladle.evaluate import Evaluator

        return Evaluator(
            task,
            device=self.device,
            batch_size=self.batch_size,
            amp=self.amp,
            channels_last=self.channels_last,
            **{"watch": screen.watching_one, **further},
        )


@dataclass(frozen=True)
class Crew:
    """Who evaluates, if not this process alone."""

    ray: str | None
    workers: int | None
    cpus_per_worker: int | None
    gpus_per_worker: float | None

    def check(self) -> None:
        """
        Raises:
            BadInput: there are workers, but no cluster to have them.
        """
        of_ray = {
            "--workers": self.workers,
            "--cpus-per-worker": self.cpus_per_worker,
            "--gpus-per-worker": self.gpus_per_worker,
        }
        given = next((flag for flag, value in of_ray.items() if value is not None), None)
        if self.ray is None and given is not None:
            raise BadInput(f"{given} is for workers on a Ray cluster; add --ray auto or an address")

    @contextmanager
    def evaluating(
        self, evaluating: Evaluating, reference: str, task: Task, pool: Iterable[Ingredient]
    ) -> Iterator[Workers | None]:
        """Workers that have the task and can read the checkpoints; None without a cluster."""
        if self.ray is None:
            yield None
            return
        from ladle.cluster import Settings, Size, Workers, connected
        from ladle.tasks.load import loader

        settings = Settings(
            evaluating.device, evaluating.batch_size, evaluating.amp, evaluating.channels_last
        )
        with connected(self.ray) as cluster:
            cluster.check_paths(file for one in pool for file in one.checkpoint.files)
            load = loader(reference, skip_corrupt=evaluating.skip_corrupt)
            gpus = self.gpus_per_worker
            if gpus is None:
                has_some = evaluating.device != "cpu" and any(node.gpus for node in cluster.nodes)
                gpus = 1 if has_some else 0
            size = Size(self.cpus_per_worker or 1, gpus)
            with Workers(
                cluster,
                load,
                task,
                settings=settings,
                size=size,
                count=self.workers,
                tell=screen.remark,
            ) as workers:
                yield workers


def start(base: str | Path | None, inputs: tuple[str, ...]) -> Ingredient | None:
    """What the checkpoints were fine-tuned from: as given, or what a sweep's folder has."""
    from ladle.checkpoint import open_checkpoint
    from ladle.location import located
    from ladle.soup import Ingredient

    if base is None and len(inputs) == 1 and (located(inputs[0]) / "sweep.json").is_file():
        base = located(inputs[0]) / "base"
    return None if base is None else Ingredient("base", open_checkpoint(base))


def _as_one(
    name: str, kind: type[Any], *flags: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """The flags, whose values a command gets as one argument, a `kind` of this name."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_one(**given: Any) -> Any:
            taken = {field.name: given.pop(field.name) for field in fields(kind)}
            return command(**given, **{name: kind(**taken)})

        return together(*flags)(cast(Command, with_one))

    return decorate


opening = _as_one("opening", Opening, inputs, _choosing)
evaluating = _as_one("evaluating", Evaluating, skip_corrupt, device, batch_size, amp, channels_last)
crew = _as_one(
    "crew",
    Crew,
    ray,
    workers,
    click.option(
        "--cpus-per-worker",
        type=click.IntRange(1),
        metavar="N",
        help="With --ray: CPUs, and threads, of each; as it stands, 1.",
    ),
    click.option(
        "--gpus-per-worker",
        type=click.FloatRange(0),
        metavar="N",
        help="With --ray; as it stands, 1 if the cluster has any. Below 1, workers share one.",
    ),
)
