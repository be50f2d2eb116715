"""Writing soups: a model folder, or one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle.checkpoint import side_files
from ladle.checkpoint.write import FileSink, safetensors_file, safetensors_files, torch_file
from ladle.errors import BadInput, OutputExists
from ladle.files import (
    check_room,
    new_file,
    part_of,
    publish_folder,
    refuse_existing,
    telling_full_disk,
)
from ladle.merge import with_dtype
from ladle.soup.card import model_card
from ladle.soup.record import provenance, record
from ladle.soup.soup import Soup

Advance = Callable[[int], None]

FILE_SUFFIXES = (".safetensors", ".pt", ".pth")
"""An output with one of these is one file; any other is a folder."""

_MISTAKEN_SUFFIXES = (".bin", ".ckpt", ".h5", ".onnx", ".gguf", ".tar", ".zip")


@dataclass(frozen=True)
class WriteOptions:
    """How weights are written: `dtype` None keeps the ingredients'; shards are of so many bytes."""

    dtype: str | None = None
    max_shard_bytes: int = 5_000_000_000


def is_file_output(output: Path) -> bool:
    return output.suffix in FILE_SUFFIXES


def record_of(file: Path) -> Path:
    """Where the record of a soup goes that is one file."""
    return file.with_name(file.name + ".json")


def check_output(soup_paths: list[Path], output: Path, *, overwrite: bool) -> None:
    """Check that writing `output` loses nothing, before any work is done.

    Raises:
        OutputExists: it exists, and may not be replaced.
        BadInput: it is, holds, or lies in one of the ingredients.
    """
    place = output.resolve()
    for path in soup_paths:
        source = path.resolve()
        if (
            place == source
            or place in source.parents
            or (path.is_dir() and source in place.parents)
        ):
            raise BadInput(
                f"the output {output} and the ingredient {path} would mix; name another --output"
            )
    is_file = is_file_output(output)
    if output.suffix in _MISTAKEN_SUFFIXES:
        raise BadInput(
            f"ladle writes no {output.suffix} files; let {output} end in "
            f"{' or '.join(FILE_SUFFIXES)}, or name a folder"
        )
    refuse_existing(output, overwrite=overwrite, is_file=is_file)
    if is_file:
        refuse_existing(record_of(output), overwrite=overwrite, is_file=True)


def save(
    soup: Soup,
    output: Path,
    *,
    overwrite: bool = False,
    options: WriteOptions | None = None,
    command: str | None = None,
    advance: Advance = lambda nbytes: None,
) -> Path:
    """Write a soup that nobody evaluated: see `Soup.save`."""
    options = options or WriteOptions()
    check_output([one.checkpoint.path for one in soup.pool], output, overwrite=overwrite)
    kept = record(soup, command=command)
    if is_file_output(output):
        write_file(soup, output, options, kept, advance=advance)
        return output
    part = part_of(output)
    if (part / "ladle.sqlite").exists():
        raise OutputExists(
            f"{part} holds an unfinished `ladle cook`; finish it with the same command, remove it, "
            "or name another --output"
        )
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        copies = write_folder(soup, part, options, advance=advance)
        write_json(part / "soup.json", kept)
        (part / "README.md").write_text(model_card(output.name, kept, side_files=copies), "utf-8")
        publish_folder(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return output


def write_file(
    soup: Soup,
    output: Path,
    options: WriteOptions,
    kept: Mapping[str, Any],
    *,
    advance: Advance = lambda nbytes: None,
) -> None:
    """One weights file, and its record beside it as `<file>.json`."""
    layout = with_dtype(soup.layout, options.dtype)
    with new_file(output, nbytes=layout.nbytes) as part:
        writing: AbstractContextManager[FileSink]
        if output.suffix == ".safetensors":
            writing = safetensors_file(part, layout, {"ladle": provenance(soup)})
        else:
            writing = torch_file(part, layout)
        with writing as sink:
            soup.stream_into(sink, dtype=options.dtype, advance=advance)
    with new_file(record_of(output)) as part:
        write_json(part, kept)


def write_folder(
    soup: Soup,
    folder: Path,
    options: WriteOptions,
    *,
    advance: Advance = lambda nbytes: None,
) -> dict[str, Path]:
    """Weights and side files into an existing folder; returns what was copied, by name."""
    layout = with_dtype(soup.pool.layout, options.dtype)
    copies = side_files(soup.pool[0].checkpoint)
    check_room(folder, layout.nbytes + sum(file.stat().st_size for file in copies.values()))
    for name, file in copies.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    metadata = {"ladle": provenance(soup)}
    with (
        telling_full_disk(folder),
        safetensors_files(
            folder, layout, metadata, max_shard_bytes=options.max_shard_bytes
        ) as sink,
    ):
        soup.stream_into(sink, dtype=options.dtype, advance=advance)
    return copies


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
