"""Writing soups: a model folder, or one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ladle.ahead import Map
from ladle.checkpoint import AdapterCheckpoint, side_files
from ladle.checkpoint.write import (
    FileSink,
    Plain,
    planned,
    safetensors_file,
    safetensors_files,
    torch_file,
    write_index,
)
from ladle.errors import BadInput, OutputExists
from ladle.files import (
    as_json,
    check_room,
    claimed,
    clear_claimed,
    discard,
    part_of,
    publish_file,
    publish_folder,
    refuse_existing,
    shared_part_of,
    telling_full_disk,
)
from ladle.merge import with_dtype
from ladle.soup.adapter import WrittenAdapter, adapter_of, is_adapter, write_adapter
from ladle.soup.card import model_card
from ladle.soup.pool import Ingredient, Pool
from ladle.soup.record import provenance, record
from ladle.soup.shards import write_elsewhere
from ladle.soup.soup import Soup

Advance = Callable[[int], None]

MakeRecord = Callable[[], Mapping[str, Any]]
"""Gives the record of a soup; asked when the weights are written, and every digest is known."""

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pth.tar")
"""An output with one of these is one file; any other is a folder."""

_MISTAKEN_SUFFIXES = (".bin", ".h5", ".onnx", ".gguf", ".tar", ".zip")


@dataclass(frozen=True)
class WriteOptions:
    """How weights are written: `dtype` None keeps the ingredients'; shards are of so many bytes.

    If not `hashed`, the ingredients' sha256 are not computed, and neither the record nor the
    weights' header has them.

    With a `map`, the shards of a folder are jobs for it, which any machine may do that sees the
    ingredients and the output, and before them, to be hashed, the ingredients' files. Without one,
    and where there is one file, all is written here in one pass. `threads` are those of a job;
    nothing of this changes a byte.
    """

    dtype: str | None = None
    max_shard_bytes: int = 5_000_000_000
    hashed: bool = True
    map: Map | None = None
    threads: int | None = None


def is_file_output(output: Path) -> bool:
    return output.name.endswith(FILE_SUFFIXES)


def record_of(file: Path) -> Path:
    """Where the record of a soup goes that is one file."""
    return file.with_name(file.name + ".json")


def check_output(
    pool: Iterable[Ingredient], output: Path, *, overwrite: bool, rank: int | None = None
) -> None:
    """Check that `output` can be written and loses nothing, before any work is done.

    Raises:
        OutputExists: it exists, and may not be replaced.
        BadInput: it or its `.part` is, holds, or lies in one of the ingredients, or in the folder
            in which they were found, where it would be found as one of them; it is one file, and
            adapters without their base take two; or there is nothing for `rank` to truncate.
    """
    pool = list(pool)
    paths = {one.checkpoint.path for one in pool} | {one.found_in for one in pool if one.found_in}
    for place in (output.resolve(), part_of(output.resolve())):
        for path in sorted(paths, key=str):
            source = path.resolve()
            inside = path.is_dir() and source in place.parents
            if place == source or place in source.parents or inside:
                raise BadInput(
                    f"the output {output} and the input {path} would mix; name another --output"
                )
    if output.suffix in _MISTAKEN_SUFFIXES and not is_file_output(output):
        raise BadInput(
            f"ladle writes no {output.suffix} files; let {output} end in "
            f"{' or '.join(FILE_SUFFIXES)}, or name a folder"
        )
    if rank is not None and not all(is_adapter(one.checkpoint) for one in pool):
        raise BadInput("--rank is for LoRA adapters, and these are none; leave it out")
    if not is_file_output(output):
        refuse_existing(output, overwrite=overwrite)
        return
    if any(isinstance(one.checkpoint, AdapterCheckpoint) for one in pool):
        raise BadInput(
            "a soup of adapters is a folder, with a configuration beside the weights; let "
            f"{output} have no suffix"
        )
    if rank is not None:
        raise BadInput(
            f"--rank truncates an adapter, and {output} would be a whole model; leave it out, or "
            "let --output have no suffix"
        )
    # The record is published first, so weights of ours always have one.
    is_ours = _is_record(record_of(output))
    for file in (output, record_of(output)):
        refuse_existing(file, overwrite=overwrite, is_file=True, is_ours=is_ours)


def _is_record(file: Path) -> bool:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"ladle", "ingredients"} <= content.keys()


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
    check_output(soup.pool, output, overwrite=overwrite, rank=soup.rank)
    with claimed(output) as work:
        if (work / "ladle.sqlite").exists():
            raise OutputExists(
                f"{work} holds an unfinished `ladle cook`; finish it with the same command, remove "
                "it, or name another --output"
            )
        try:
            options = options or WriteOptions()
            make_record = partial(record, soup, command=command, hashed=options.hashed)
            publish(soup, output, make_record, options, advance=advance)
        except BaseException:
            discard(output)
            raise
    return output


def publish(
    soup: Soup,
    output: Path,
    make_record: MakeRecord,
    options: WriteOptions | None = None,
    *,
    evaluations: Sequence[Mapping[str, Any]] | None = None,
    keep: Collection[str] = (),
    finish: Callable[[Path], object] = lambda folder: None,
    advance: Advance = lambda nbytes: None,
) -> Mapping[str, Any]:
    """Write soup and record in the claimed `part_of(output)`, and let it become `output`.

    A folder gets card and `evaluations` too, and whatever `finish` adds, and appears at once, with
    what has the names to `keep`. Of a file, the record appears a moment before the weights. Returns
    the record as written.
    """
    options = options or WriteOptions()
    work = part_of(output)
    clear_claimed(work, keep=keep)
    with telling_full_disk(output):
        if is_file_output(output):
            kept = write_file(soup, work / output.name, options, make_record, advance=advance)
            for file in (record_of(output), output):
                publish_file(work / file.name, file)
            discard(output)
            return kept
        shared = shared_part_of(output)
        written = write_folder(soup, work, options, shared=shared, advance=advance)
        adapter = written.adapter
        kept = {**make_record(), **({"adapter": adapter.record()} if adapter else {})}
        if evaluations is not None:
            lines = "".join(as_json(row) + "\n" for row in evaluations)
            (work / "evaluations.jsonl").write_text(lines, "utf-8")
        write_json(work / "soup.json", kept)
        card = model_card(output.name, kept, evaluations or (), side_files=written.copies)
        (work / "README.md").write_text(card, "utf-8")
        finish(work)
        publish_folder(output, written.made_elsewhere)
    return kept


def write_file(
    soup: Soup,
    target: Path,
    options: WriteOptions,
    make_record: MakeRecord,
    *,
    advance: Advance = lambda nbytes: None,
) -> Mapping[str, Any]:
    """One weights file, and its record beside it as `<file>.json`; returns that.

    Adapters give one only on their base, as a whole model.
    """
    layout = with_dtype(soup.layout, options.dtype)
    check_room(target.parent, layout.nbytes)
    writing: AbstractContextManager[FileSink]
    if target.suffix == ".safetensors":
        writing = safetensors_file(target, layout, _Provenance(soup, options.hashed))
    else:
        writing = torch_file(target, layout, soup.envelope)
    with writing as sink:
        _fill(sink, soup, options, advance)
    kept = make_record()
    write_json(record_of(target), kept)
    return kept


def _fill(sink: FileSink, soup: Soup, options: WriteOptions, advance: Advance) -> None:
    hashing = options.hashed and not soup.pool.is_hashed
    soup.stream_into(
        sink, dtype=options.dtype, hashing=hashing, threads=options.threads, advance=advance
    )


@dataclass(frozen=True)
class _Provenance:
    """The family tree in the header of the weights: see `Metadata`."""

    soup: Soup
    hashed: bool

    def placeholder(self) -> Mapping[str, str]:
        return self._with(lambda one: "0" * 64)

    def final(self) -> Mapping[str, str]:
        return self._with(lambda one: one.digest)

    def _with(self, digest: Callable[[Ingredient], str]) -> Mapping[str, str]:
        tree = provenance(self.soup, digest if self.hashed else lambda one: None)
        return {"ladle": tree}


def room_for(pool: Pool, output: Path) -> int:
    """The bytes that a soup of all of a pool may take: of adapters, in a folder, without a base."""
    if is_file_output(output) or not any(is_adapter(one.checkpoint) for one in pool):
        return pool.layout.nbytes
    return sum(file.stat().st_size for one in pool for file in adapter_of(one).files)


@dataclass(frozen=True)
class Written:
    """What a folder got beside its index: side files, by name; an adapter, if it is one; and shards
    that other machines wrote, by name, and where they lie."""

    copies: Mapping[str, Path]
    adapter: WrittenAdapter | None = None
    made_elsewhere: Mapping[str, Path] = field(default_factory=dict)


def write_folder(
    soup: Soup,
    folder: Path,
    options: WriteOptions,
    *,
    shared: Path | None = None,
    advance: Advance = lambda nbytes: None,
) -> Written:
    """Weights and side files into an existing folder.

    `shared` is a folder in which other machines may write shards, if it is not the same.
    """
    layout = with_dtype(soup.layout, options.dtype)
    copies = side_files(soup.pool[0].checkpoint)
    room = room_for(soup.pool, folder)
    check_room(folder, room + sum(file.stat().st_size for file in copies.values()))
    for name, file in copies.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, target.open("wb") as copy:  # The source may be a URL.
            shutil.copyfileobj(source, copy)
    metadata = _Provenance(soup, options.hashed)
    if any(is_adapter(one.checkpoint) for one in soup.pool):
        adapter = write_adapter(soup, folder, dtype=options.dtype, metadata=metadata)
        return Written(copies, adapter)
    made_elsewhere: Mapping[str, Path] = {}
    shards = planned(layout, options.max_shard_bytes)
    if options.map is None or len(shards) == 1:
        with safetensors_files(folder, shards, metadata) as sink:
            _fill(sink, soup, options, advance)
    else:
        if options.hashed:
            soup.pool.hash_elsewhere(options.map)
        made_elsewhere = write_elsewhere(
            soup,
            shared or folder,
            shards,
            Plain(metadata.final()),
            options.map,
            dtype=options.dtype,
            threads=options.threads,
            advance=advance,
        )
    write_index(folder, shards)
    return Written(copies, made_elsewhere=made_elsewhere)


def read_record(output: Path) -> dict[str, Any]:
    """The `soup.json` of an output, folder or file."""
    file = record_of(output) if is_file_output(output) else output / "soup.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(as_json(content, indent=2) + "\n", "utf-8", errors="backslashreplace")
