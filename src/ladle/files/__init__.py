"""Output that appears complete or not at all, on a disk of this machine or behind a URL.

Work on an output is kept in a folder beside it, and for a URL in a folder of this machine, until it
is complete.
"""

from ladle.files.claims import claimed, clear_claimed, discard
from ladle.files.disk import check_room, telling_full_disk
from ladle.files.places import Mark, cache_folder, is_unfinished, part_of, shared_part_of
from ladle.files.publishing import (
    is_there,
    new_file,
    publish_file,
    publish_folder,
    publish_new_folder,
    refuse_existing,
    remove_folder,
)
from ladle.files.text import as_json
from ladle.files.uploads import fetch_folder, upload_folder

__all__ = [
    "Mark",
    "as_json",
    "cache_folder",
    "check_room",
    "claimed",
    "clear_claimed",
    "discard",
    "fetch_folder",
    "is_there",
    "is_unfinished",
    "new_file",
    "part_of",
    "publish_file",
    "publish_folder",
    "publish_new_folder",
    "refuse_existing",
    "remove_folder",
    "shared_part_of",
    "telling_full_disk",
    "upload_folder",
]
