"""Compiles `src/ladle/native/kernel.c` where there is a C compiler; without one, numpy does it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared", "-ffp-contract=off"]


class CompiledKernel(BuildHookInterface[Any]):
    """Puts the library beside its source, and into the wheel, which then is for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = Path(self.root, "src", "ladle", "native", "kernel.c")
        library = source.with_suffix(".so")
        library.unlink(missing_ok=True)
        if self.target_name == "wheel" and _compiled(source, library):
            build_data["artifacts"].append("src/ladle/native/kernel.so")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def _compiled(source: Path, library: Path) -> bool:
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc")]
    part = library.with_suffix(".part")
    if compiler[0] is None or sys.platform == "win32":
        print("ladle: no C compiler found; numpy will do the arithmetic of merges, more slowly")
        return False
    try:
        subprocess.run([*compiler, *FLAGS, "-o", part, source], check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"ladle: {error}; numpy will do the arithmetic of merges, more slowly")
        return False
    part.replace(library)  # Never half a library, nor another one under a process that uses it.
    return True
