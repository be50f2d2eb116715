"""Averaging, timed beside what people use today and beside what the machine can do at best.

    python benchmarks/merge.py --ladle VENV [--rounds 5] [--output benchmarks/results.md]

Makes its inputs and an environment for the other tools under `benchmarks/work` (30 GB; `make
clean-bench` removes it), runs everything in turn, several rounds of it, and writes one page of
tables. Nothing but the standard library here: a process's peak memory, as the system counts it, is
never less than that of the one that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
PEERS = ("mergekit==0.1.5", "timm==1.0.31")

MiB = 1 << 20

# Every tool finds its compiled modules, as it does where a person has used it before.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Tool:
    """A command that averages; OUTPUT in it stands for a new path, INPUTS for the checkpoints."""

    name: str
    command: Sequence[str | Path]
    folder: Path
    output: str = "soup"


@dataclass
class Runs:
    """Seconds and peak resident bytes, round by round."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ladle", type=Path, required=True, help="environment that has ladle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results.md")
    given = parser.parse_args()
    ladle = given.ladle.absolute() / "bin"
    peers = peers_environment()
    inputs = {name: made(name, ladle / "python") for name in INPUTS}
    pages = [
        heading(ladle / "python", peers / "python", given.rounds),
        whole_processes(ladle, peers, inputs, given.rounds),
        merges(ladle, inputs, given.rounds),
        growth(ladle, inputs, given.rounds),
        kernels(ladle),
        start_up(ladle, given.rounds),
    ]
    given.output.write_text("\n\n".join(pages) + "\n", "utf-8")
    print(given.output.read_text("utf-8"))


INPUTS = {
    "clip-float32": ("clip", "float32", "safetensors", "8"),
    "clip-float32-pt": ("clip", "float32", "pt", "8"),
    "clip-bfloat16": ("clip", "bfloat16", "safetensors", "8"),
    "clip-float16": ("clip", "float16", "safetensors", "8"),
    "llama-bfloat16": ("llama", "bfloat16", "shards", "8"),
    "number-32": ("clip", "float32", "safetensors", "32", "40"),
    "size-small": ("clip", "float32", "safetensors", "2", "25"),
    "size-large": ("clip", "float32", "safetensors", "2", "210"),
}


def made(name: str, python: Path) -> Path:
    """A folder of checkpoints, made if it is not there."""
    folder = WORK / "inputs" / name
    if not folder.exists():
        model, dtype, form, models, *percent = INPUTS[name]
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        call = [python, HERE / "inputs.py", model, dtype, form, models, part, *percent]
        subprocess.run(call, check=True)
        part.rename(folder)
    return folder


def peers_environment() -> Path:
    venv = WORK / "peers"
    if not (venv / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", *PEERS]
        subprocess.run(pip, check=True)
        (venv / "done").touch()
    return venv / "bin"


# --- whole processes ----------------------------------------------------------------------


def whole_processes(ladle: Path, peers: Path, inputs: dict[str, Path], rounds: int) -> str:
    pt, one, shards = (inputs[n] for n in ("clip-float32-pt", "clip-float32", "llama-bfloat16"))
    python, average = peers / "python", [ladle / "ladle", "average", "INPUTS", "-o", "OUTPUT"]
    config = WORK / "mergekit.yml"
    config.write_text(mergekit_config(shards))
    official, timm = (HERE / "peers" / f"{n}.py" for n in ("official_loop", "timm_average"))
    merge = ["--no-copy-tokenizer"]
    clip = [
        Tool("official loop", [python, official, "OUTPUT", "INPUTS"], pt, "soup.pt"),
        Tool("timm's avg_checkpoints", [python, timm, "OUTPUT", "INPUTS"], pt, "soup.pt"),
        Tool("ladle, .pt", average, pt),
        Tool("ladle, .pt, --no-hash", [*average, "--no-hash"], pt),
        Tool("ladle, .safetensors", average, one),
        Tool("ladle, .safetensors, --no-hash", [*average, "--no-hash"], one),
    ]
    llama = [
        Tool("mergekit linear", [peers / "mergekit-yaml", config, "OUTPUT", *merge], shards),
        Tool("ladle", average, shards),
        Tool("ladle, --no-hash", [*average, "--no-hash"], shards),
    ]
    return "\n\n".join(
        [
            "## Whole processes\n\nFrom the start of the command to its end, output written. "
            "ladle computes the sha256 of every input while it reads, unless told not to; the "
            "others compute none, so `--no-hash` compares like with like. The last column is "
            "beside the limit, which the next section explains.",
            "### CLIP ViT-B/32, float32, 8 checkpoints of 605 MB\n\n"
            + compared(clip, rounds, 2, limit(ladle, pt, rounds)),
            "### Llama, bfloat16, 8 checkpoints of 594 MB in 3 shards each\n\n"
            + compared(llama, rounds, 1, limit(ladle, shards, rounds)),
        ]
    )


def mergekit_config(folder: Path) -> str:
    models = "".join(
        f"  - model: {path}\n    parameters: {{weight: 1}}\n" for path in sorted(folder.iterdir())
    )
    return f"merge_method: linear\ndtype: bfloat16\nmodels:\n{models}"


def compared(tools: Sequence[Tool], rounds: int, peers: int, least: float) -> str:
    """A table; the others are compared with the first `peers` tools and the `least` seconds."""
    runs = {tool.name: Runs() for tool in tools}
    for i in range(rounds + 1):
        for tool in tools:
            seconds, peak = timed(tool)
            if i:  # The first round fills the page cache.
                runs[tool.name].seconds.append(seconds)
                runs[tool.name].peaks.append(peak)
    heads = ["", "seconds", "range", "GB/s in", "peak MiB"]
    heads += [f"{peer.name} / it" for peer in tools[:peers]] + ["it / limit"]
    rows = []
    for tool in tools:
        mine = runs[tool.name]
        ratios = [
            median(p / m for p, m in zip(runs[peer.name].seconds, mine.seconds, strict=True))
            for peer in tools[:peers]
        ]
        rows.append(
            [
                tool.name,
                f"{median(mine.seconds):.2f}",
                f"{min(mine.seconds):.2f} to {max(mine.seconds):.2f}",
                f"{size(tool.folder) / median(mine.seconds) / 1e9:.2f}",
                f"{max(mine.peaks) / MiB:.0f}",
                *(f"{ratio:.1f}" for ratio in ratios),
                f"{median(mine.seconds) / least:.1f}",
            ]
        )
    return table(heads, rows)


def timed(tool: Tool) -> tuple[float, int]:
    """Seconds and peak resident bytes of one run."""
    output = WORK / "outputs" / tool.output
    shutil.rmtree(output.parent, ignore_errors=True)
    output.parent.mkdir(parents=True)
    command: list[str] = []
    for part in tool.command:
        inputs = sorted(str(path) for path in tool.folder.iterdir())
        command += inputs if part == "INPUTS" else [str(output if part == "OUTPUT" else part)]
    os.sync()  # What the last one wrote is no burden for this one.
    begin = time.perf_counter()
    with (WORK / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = status
    if status:
        raise SystemExit(f"{tool.name} failed: {(WORK / 'log.txt').read_text()[-2000:]}")
    shutil.rmtree(output.parent)
    return seconds, usage.ru_maxrss * 1024


# --- the merge alone, and growth ----------------------------------------------------------


def merges(ladle: Path, inputs: dict[str, Path], rounds: int) -> str:
    rows = []
    for name in ("clip-float32", "clip-bfloat16", "clip-float16", "llama-bfloat16"):
        found = asked(ladle, "limit.py", inputs[name], WORK, rounds)
        rows.append(
            [
                name,
                f"{found['bytes'] / 1e9:.2f}",
                f"{found['limit']:.2f}",
                f"{found['merge']:.2f}",
                f"{found['bytes'] / found['merge'] / 1e9:.1f}",
                f"{found['ratio']:.2f}",
            ]
        )
    heads = ["8 of", "GB in", "limit, s", "merge, s", "GB/s in", "merge / limit"]
    return (
        "## The merge alone\n\nInside the process, output file included, nothing hashed. The "
        "limit is the time to read all input bytes into a reused buffer with all cores, plus to "
        "write the output bytes.\n\n" + table(heads, rows)
    )


def growth(ladle: Path, inputs: dict[str, Path], rounds: int) -> str:
    average = [ladle / "ladle", "average", "INPUTS", "-o", "OUTPUT"]
    many, small, large = (inputs[name] for name in ("number-32", "size-small", "size-large"))
    cases = [(2, many), (8, many), (32, many), (2, small), (2, inputs["clip-float32"]), (2, large)]
    rows = []
    for count, folder in cases:
        chosen = sorted(folder.iterdir())[:count]
        command = [part for p in average for part in (chosen if p == "INPUTS" else [p])]
        runs = [timed(Tool("ladle", command, folder)) for _ in range(rounds + 1)][1:]
        nbytes = sum(path.stat().st_size for path in chosen)
        seconds = median(second for second, _ in runs)
        rows.append(
            [
                str(count),
                f"{nbytes / count / 1e6:.0f}",
                f"{nbytes / 1e9:.2f}",
                f"{seconds:.2f}",
                f"{seconds / nbytes * 1e9:.2f}",
                f"{max(peak for _, peak in runs) / MiB:.0f}",
            ]
        )
    heads = ["checkpoints", "MB each", "GB in", "seconds", "seconds per GB", "peak MiB"]
    return "## Growth\n\nWhole processes, with hashing.\n\n" + table(heads, rows)


def kernels(ladle: Path) -> str:
    found = asked(ladle, "kernels.py")
    rows = [[dtype, *(f"{value:.2f}" for value in row.values())] for dtype, row in found.items()]
    return (
        "## The arithmetic\n\nNanoseconds to add one number to a float64 sum, in the cache, on "
        "one core: the compiled kernel, what stands in for it where there was no C compiler, and "
        "torch.\n\n" + table(["dtype", "compiled", "numpy", "torch"], rows)
    )


def start_up(ladle: Path, rounds: int) -> str:
    programs = {
        "`ladle --help`": [ladle / "ladle", "--help"],
        "`import numpy`": [ladle / "python", "-c", "import numpy"],
        "`import torch`": [ladle / "python", "-c", "import torch"],
    }
    rows = []
    for name, command in programs.items():
        runs = [timed(Tool(name, command, HERE / "peers")) for _ in range(rounds + 1)][1:]
        seconds = median(second for second, _ in runs)
        rows.append([name, f"{seconds:.2f}", f"{max(peak for _, peak in runs) / MiB:.0f}"])
    return "## Start-up\n\n" + table(["", "seconds", "peak MiB"], rows)


# --- saying it ----------------------------------------------------------------------------


def limit(ladle: Path, folder: Path, rounds: int) -> float:
    """Seconds to read a folder and to write one of its checkpoints."""
    return asked(ladle, "limit.py", folder, WORK, rounds)["limit"]


def asked(ladle: Path, script: str, *given: object) -> dict[str, Any]:
    call = [str(ladle / "python"), str(HERE / script), *map(str, given)]
    answer = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(answer.stdout)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def heading(python: Path, peers: Path, rounds: int) -> str:
    ask = "import {0} as m; print(m.__version__)"
    numpy, torch, theirs = (
        subprocess.run(
            [one, "-c", ask.format(name)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for one, name in ((python, "numpy"), (python, "torch"), (peers, "torch"))
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        "# Averaging: how fast, in how much memory\n\nWritten by `make bench`; medians of "
        f"{rounds} rounds, in which all commands take turns, after one round that fills the page "
        f"cache. Ratios are medians of the rounds' own ratios.\n\nThe machine: {processor()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}, virtual and "
        f"shared with others. Python {platform.python_version()}, numpy {numpy}, torch {torch}; "
        f"the others with {', '.join(PEERS)} and torch {theirs}."
    )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
