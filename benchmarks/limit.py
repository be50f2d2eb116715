"""The merge alone, beside what the machine can do at best; prints JSON.

    python benchmarks/limit.py FOLDER SCRATCH ROUNDS

The limit is the time to read all input bytes into a reused buffer, with all cores, and to write
as many bytes as the soup has. Both are timed in turn in one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from ladle.checkpoint.write import safetensors_file
from ladle.soup import Soup, open_pool, uniform_soup

CHUNK = 1 << 22
CORES = os.cpu_count() or 1


class NoMetadata:
    """Of a file that says nothing but its tensors."""

    def placeholder(self) -> dict[str, str]:
        return {}

    final = placeholder


def read_all(files: list[Path]) -> None:
    """Every byte of the files, in equal parts for every core."""
    parts = [
        (file, start, min(start + (64 << 20), file.stat().st_size))
        for file in files
        for start in range(0, file.stat().st_size, 64 << 20)
    ]

    def read(core: int) -> None:
        buffer = np.empty(CHUNK, np.uint8)
        for file, start, stop in parts[core::CORES]:
            descriptor = os.open(file, os.O_RDONLY)
            for at in range(start, stop, CHUNK):
                os.preadv(descriptor, [buffer[: stop - at].data], at)
            os.close(descriptor)

    with ThreadPoolExecutor(CORES) as executor:
        list(executor.map(read, range(CORES)))


def write_all(nbytes: int, path: Path) -> None:
    """So many bytes, by all cores."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.ftruncate(descriptor, nbytes)

    def write(core: int) -> None:
        buffer = np.ones(CHUNK, np.uint8)
        for at in range(core * CHUNK, nbytes, CORES * CHUNK):
            os.pwrite(descriptor, buffer[: nbytes - at].data, at)

    with ThreadPoolExecutor(CORES) as executor:
        list(executor.map(write, range(CORES)))
    os.close(descriptor)


def merge(soup: Soup, path: Path) -> None:
    with safetensors_file(path, soup.layout, NoMetadata()) as sink:
        soup.stream_into(sink)


def main(folder: str, scratch: str, rounds: str) -> None:
    soup = uniform_soup(open_pool(folder))
    files = [file for one in soup.pool for file in one.checkpoint.files]
    target = Path(scratch, "limit.bin")
    limits, merges = [], []
    for _ in range(int(rounds) + 1):
        for times, work in (
            (limits, lambda: (read_all(files), write_all(soup.layout.nbytes, target))),
            (merges, lambda: merge(soup, target)),
        ):
            target.unlink(missing_ok=True)
            os.sync()
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    target.unlink()
    nbytes = sum(file.stat().st_size for file in files)
    found = {"bytes": nbytes, "limit": median(limits[1:]), "merge": median(merges[1:])}
    ratios = [m / best for m, best in zip(merges[1:], limits[1:], strict=True)]
    print(json.dumps(found | {"ratio": median(ratios)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
