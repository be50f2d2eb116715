"""The shards of a soup, each a job that any machine can do which sees the files and the folder.

A job gets the decision, not weights: it reads its tensors' slices from the ingredients, and writes
its own file. Every slice is computed alone, so the bytes are those of one process that writes all.
"""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ladle.ahead import Map
from ladle.checkpoint import Checkpoint, MemoryCheckpoint
from ladle.checkpoint.write import Metadata, Shard, safetensors_files
from ladle.errors import BadInput
from ladle.files import cache_folder, publish_file, telling_full_disk, upload_folder
from ladle.location import is_local
from ladle.merge import Ingredients, mean, stream
from ladle.soup.elsewhere import reading_here
from ladle.soup.soup import Soup

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Written:
    """A finished shard: how large its file is, and the machine that wrote it."""

    machine: str
    nbytes: int


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards of a soup into `folder`, which is a URL or has to be there: `Shard -> Written`.

    It may be called again for a shard that a killed call had begun, or another one still writes.
    """

    soup: Soup
    folder: Path
    metadata: Metadata
    dtype: str | None = None
    threads: int | None = None

    def __call__(self, shard: Shard) -> Written:
        """
        Raises:
            BadInput: this machine does not see the folder, may not write there, or cannot read an
                ingredient.
            NonFiniteTensor, LayoutMismatch: see `Soup.stream_into`.
        """
        _check_folder(self.folder)
        names = shard.layout.tensors
        with (
            telling_full_disk(self.folder.parent),
            reading_here(self.soup.checkpoints),
            _attempt(self.folder) as attempt,
        ):
            made = attempt / shard.name
            with safetensors_files(attempt, [shard], self.metadata) as sink:
                self.soup.stream_into(sink, dtype=self.dtype, names=names, threads=self.threads)
            nbytes = made.stat().st_size
            if is_local(self.folder):
                publish_file(made, self.folder / shard.name)
            else:  # Whoever asked for it compares its size before it gets its place.
                upload_folder(attempt, self.folder)
        return Written(platform.node(), nbytes)


@contextmanager
def _attempt(folder: Path) -> Iterator[Path]:
    """Where to write first: of its own, for whoever was thought to be dead may still be at it."""
    attempt = (folder if is_local(folder) else cache_folder() / "outputs") / uuid.uuid4().hex
    attempt.mkdir(parents=not is_local(folder))
    try:
        yield attempt
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def write_elsewhere(
    soup: Soup,
    folder: Path,
    shards: Sequence[Shard],
    metadata: Metadata,
    map: Map,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    advance: Advance = lambda nbytes: None,
) -> dict[str, Path]:
    """Write shards into `folder`, each a job for `map`; returns where each lies, by its name.

    Jobs write into a folder within that one, of a name that nobody has used before. A machine that
    has a folder of its own where others share one lacks it; and a job whose command was killed, and
    whose output another command now writes, finds it gone.

    Raises:
        BadInput: see `ShardWriter`.
    """
    work = folder / f".shards-{uuid.uuid4().hex}"
    if is_local(folder):
        work.mkdir()
    try:
        writer = ShardWriter(portable(soup), work, metadata, dtype, threads)
        for shard, done in zip(shards, map(writer, shards), strict=True):
            _check_there(work / shard.name, done, folder)
            advance(shard.layout.nbytes)
    except BaseException:
        if is_local(folder):
            shutil.rmtree(work, ignore_errors=True)
        raise
    return {shard.name: work / shard.name for shard in shards}


def _check_there(file: Path, done: Written, output: Path) -> None:
    try:
        nbytes = file.stat().st_size
    except FileNotFoundError:
        nbytes = -1
    if nbytes != done.nbytes:
        raise BadInput(
            f"what {done.machine} wrote to {output} is not there for {platform.node()}; name an "
            "--output on storage that all machines share"
        )


def portable(soup: Soup) -> Soup:
    """What the weights of a soup follow from, to be sent to other machines.

    Its ingredients stay what they are: files by path or URL. Estimated statistics are computed.
    """
    statistics = soup.statistics and _in_memory(soup.statistics)
    return replace(
        soup, statistics=statistics, options={}, tastings=(), repeats=(), beside={}, caveats=()
    )


def _check_folder(folder: Path) -> None:
    # What the command has made in its output, to be told from a folder of the same name here.
    machine, output = platform.node(), folder.parent
    if not is_local(folder):
        return  # Whoever cannot write there finds out when it does.
    if not folder.is_dir():
        raise BadInput(
            f"{machine} does not see {output}; name an --output on storage that all machines share"
        )
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{machine} may not write to {output}; change its permissions there")


def _in_memory(checkpoint: Checkpoint) -> MemoryCheckpoint:
    from ladle.soup.live import StateDictSink

    sink = StateDictSink(checkpoint.layout)
    stream(Ingredients([checkpoint], ["statistics"]), mean(1), checkpoint.layout, sink)
    return MemoryCheckpoint(checkpoint.path, sink.state)
