"""Scoring by the user's own command or function: the evaluation that ladle knows nothing of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ladle.errors import BadInput, ScoringFailed
from ladle.evaluate.evaluator import Watch, unwatched
from ladle.evaluate.store import Store
from ladle.foreign import running
from ladle.location import is_local
from ladle.soup import Soup, is_adapter
from ladle.soup.output import FILE_SUFFIXES, WriteOptions, write_file, write_folder
from ladle.soup.record import record

if TYPE_CHECKING:
    from torch import nn

Mode = Literal["max", "min"]
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\b(?:nan|inf)\b", re.IGNORECASE)


Ask = Callable[[Soup], object]
"""Asks a scorer about a soup: a number comes back, or a mapping of metrics."""


class BlackBox:
    """`Soup -> float` by asking a scorer, higher is better; the store answers first."""

    def __init__(
        self,
        ask: Ask,
        *,
        identity: str,
        store: Store | None = None,
        metric: str | None = None,
        mode: Mode = "max",
        watch: Watch = unwatched,
    ) -> None:
        """`identity` names the scorer in the store: another one is asked anew."""
        self._ask = ask
        self._sign = 1.0 if mode == "max" else -1.0
        self._metric = metric
        self._store = store or Store(None)
        self._watch = watch
        self._lock = threading.Lock()  # one candidate on disk, or one model, at a time
        self._identity = hashlib.sha256(f"{identity}\n{metric}".encode()).hexdigest()

    def __call__(self, soup: Soup) -> float:
        value = self._store.score(soup.digest, self._identity)
        if value is None:
            with self._lock:
                # Another thread may have asked while this one waited.
                value = self._store.score(soup.digest, self._identity)
                if value is None:
                    value = self._asked(soup)
                    self._store.keep_score(soup.digest, self._identity, value)
        return self._sign * value

    def _asked(self, soup: Soup) -> float:
        with self._watch(f"scoring {' + '.join(soup.members)}", 1) as advance:
            with running("the scoring function"):
                answer = self._ask(soup)
            advance(1)
        return number_in(answer, self._metric)

    def describe(self) -> dict[str, Any]:
        """The metric, for the record; task and splits are the scorer's own business."""
        return {"metric": {"name": self._metric or "score", "higher_is_better": self._sign > 0}}


def on_disk(score: Callable[[Path], object], workspace: Path) -> Ask:
    """Ask a scorer of paths.

    A single ingredient is scored where it lies. Any other soup is written into `workspace` for as
    long as the scoring takes, the way the ingredients are: as a folder with side files, or a file.
    """

    def ask(soup: Soup) -> object:
        source = soup.pool[0].checkpoint.path
        as_given = len(soup.pool) == 1 and soup.rank is None and soup.layout == soup.pool.layout
        if as_given and is_local(source) and source.exists():
            return score(source)
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        try:
            if source.is_dir() or is_adapter(soup.pool[0].checkpoint):
                write_folder(soup, workspace, WriteOptions())
                return score(workspace)
            known = (suffix for suffix in FILE_SUFFIXES if source.name.endswith(suffix))
            suffix = next(known, ".safetensors")
            candidate = workspace / f"candidate{suffix}"
            write_file(soup, candidate, WriteOptions(), lambda: record(soup))
            return score(candidate)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)

    return ask


def in_memory(score: Callable[[nn.Module], object], build: Callable[[], nn.Module]) -> Ask:
    """Ask a scorer of live modules: the model is built once and refilled in place."""
    live: list[nn.Module] = []

    def ask(soup: Soup) -> object:
        if not live:
            live.append(build())
        return score(soup.load_into(live[0]).eval())

    return ask


def number_in(answer: object, metric: str | None) -> float:
    """The score in what a scorer gave: a number, or a mapping with `metric` (or with one entry).

    Raises:
        ScoringFailed: there is none.
    """
    if isinstance(answer, Mapping):
        if metric is None and len(answer) == 1:
            return number_in(next(iter(answer.values())), None)
        if metric is None:
            raise ScoringFailed(
                f"the evaluation gave {', '.join(map(str, answer))}; say which with --metric"
            )
        if metric not in answer:
            raise ScoringFailed(
                f"the evaluation gave {', '.join(map(str, answer))}, but no {metric!r}; "
                "change --metric"
            )
        return number_in(answer[metric], None)
    try:
        return float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ScoringFailed(
            f"the evaluation gave {answer!r}, which is no number; return a float or a mapping"
        ) from None


def shell_command(command: str) -> Callable[[Path], object]:
    """A scorer that runs a shell command and reads the last number, or JSON object, it prints.

    `{model}` stands for the candidate's path.

    Raises:
        BadInput: the command does not say where the model goes.
        ScoringFailed: (when called) it exits with an error or prints no number.
    """
    if "{model}" not in command:
        raise BadInput("--score: put {model} where the path of the candidate goes")

    def score(path: Path) -> object:
        quote = subprocess.list2cmdline if os.name == "nt" else shlex.join
        line = command
        # With the user's own quotes around it too, which ours would otherwise undo.
        for place in ("'{model}'", '"{model}"', "{model}"):
            line = line.replace(place, quote([str(path)]))
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 -- the user's own command line
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no output"]
            raise ScoringFailed(f"{line} exited with {done.returncode}: {last[0]}")
        return last_answer(done.stdout, line)

    return score


def last_answer(printed: str, command: str) -> object:
    """The JSON object or the number that stands last."""
    text = printed.strip()
    if text.endswith("}"):
        tails = (_parsed(text[found.start() :]) for found in re.finditer(r"\{", text))
        whole = next((tail for tail in tails if tail is not None), None)
        if whole is not None:
            return whole
    numbers = _NUMBER.findall(text)
    if not numbers:
        raise ScoringFailed(f"{command} printed no number; print the score last")
    return float(numbers[-1])


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def command_identity(command: str) -> str:
    """Changes when the command does, the folder it runs in, or a file that it names."""
    files = [Path(word) for word in command.replace("{model}", " ").split() if Path(word).is_file()]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return "\n".join([command, str(Path.cwd()), *digests])
