"""Memory is a promise: it does not grow with the number or size of the checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from states import generator

PROGRAM = """
import re, sys
from pathlib import Path
out, *paths = sys.argv[1:]
if paths:
    import ladle
    ladle.uniform(ladle.open(paths)).save(out)
else:
    import torch
# Not `getrusage`, whose maximum includes that of the parent.
status = Path("/proc/self/status").read_text()
print(int(re.search("VmHWM: *([0-9]+) kB", status.replace("\t", " ")).group(1)) // 1024)
"""


def peak_MiB(out: Path, paths: list[Path]) -> int:  # noqa: N802 - a unit
    command = [sys.executable, "-c", PROGRAM, str(out), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize(
    ("suffix", "out"), [("safetensors", "safetensors"), ("pt", "safetensors"), ("pt", "pt")]
)
def test_twelve_checkpoints_take_no_more_memory_than_two(
    tmp_path: Path, suffix: str, out: str
) -> None:
    paths = []
    for i in range(12):
        # 60 MB, most of it in one tensor.
        state = {
            "embed": torch.randn(12_000, 1000, generator=generator(i)),
            "bias": torch.randn(3_000_000, generator=generator(i)),
        }
        path = tmp_path / f"{i}.{suffix}"
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        paths.append(path)
    few = peak_MiB(tmp_path / f"few.{out}", paths[:2])
    many = peak_MiB(tmp_path / f"many.{out}", paths)
    # Only to write .pt takes torch, which alone may take more than the limit.
    limit = 400 if out == "safetensors" else peak_MiB(tmp_path / "nothing", []) + 200
    assert many < limit
    assert many - few < 20
    for path in paths:  # 720 MB
        path.unlink()
