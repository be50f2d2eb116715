"""The architecture, held by a test: imports point down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "ladle"

LAYERS = [
    ["cli"],
    ["demo"],
    ["cluster"],
    ["analysis", "cook", "checks"],
    ["report"],
    ["callbacks", "evaluate", "sweep", "recipes"],  # side by side; none imports another
    ["soup", "tasks"],
    ["merge", "runs"],
    ["checkpoint", "predictions"],
    ["ahead", "files", "foreign", "native", "wording"],
    ["errors", "location"],
]
HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
# The lowest floor may lean on the errors, which lean on nothing.
HEIGHT["errors"] -= 1


def imports(path: Path) -> Iterator[str]:
    """The parts of ladle that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ladle."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ladle.")
            )


def test_imports_point_down() -> None:
    upward = []
    for path in SRC.rglob("*.py"):
        here = path.relative_to(SRC).parts[0].removesuffix(".py")
        if here in ("__init__", "__main__"):
            continue  # the front doors import from every floor
        # A part missing from LAYERS is a KeyError here: nothing is exempt by being new.
        upward += [
            f"{path.relative_to(SRC)} imports ladle.{there}"
            for there in imports(path)
            if there != here and HEIGHT[there] >= HEIGHT[here]
        ]
    assert upward == []


def test_every_part_has_a_floor() -> None:
    parts = {path.stem for path in SRC.glob("*.py")} | {p.parent.name for p in SRC.glob("*/*.py")}
    assert parts - {"__init__", "__main__"} == set(HEIGHT)


def test_no_torch_where_none_is_needed() -> None:
    """At import, only what works on tensors may load torch: the command line starts quickly."""
    torchless = ["analysis", "cli", "errors", "files", "foreign", "predictions", "recipes"]
    torchless += ["report", "merge"]
    found = [
        str(path.relative_to(SRC))
        for part in torchless
        for path in [*SRC.glob(f"{part}.py"), *SRC.glob(f"{part}/*.py")]
        for node in ast.parse(path.read_text("utf-8")).body
        if (isinstance(node, ast.Import) and any(a.name == "torch" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
    ]
    assert found == []
