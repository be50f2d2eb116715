"""Stores that checkpoints and output may lie in: of memory, of a disk, and a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import boto3
import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "s3://soups"


@contextmanager
def s3_server() -> Iterator[Mapping[str, str]]:
    """An S3 server on this machine with an empty bucket, to which the environment leads.

    Every process finds it that is started within; this process, too.
    """
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    leads = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict(os.environ, leads):
            fsspec.filesystem("s3").clear_instance_cache()
            boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            yield leads
    finally:
        server.stop()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, wherever it is, by their names within it."""
    if isinstance(folder, Path):
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
    store, root = folder.fs, folder.path.rstrip("/")
    store.invalidate_cache()
    found = sorted(store.find(root)) if store.exists(root) else []
    return {name[name.index(root) + len(root) + 1 :]: store.cat_file(name) for name in found}
