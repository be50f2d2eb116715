"""What the documentation shows is what the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import ladle
from ladle.cli import ladle as command_line
from toys import near, toy_pool

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_commands() -> list[str]:
    lines = (line for page in PAGES for line in page.read_text("utf-8").splitlines())
    return [
        line.split("#")[0].strip().removeprefix(".venv/bin/")
        for line in lines
        if re.match(r"    (?:\.venv/bin/)?ladle \S", line)
    ]


def test_there_are_commands_to_check() -> None:
    assert len(shown_commands()) > 10


@pytest.mark.parametrize("line", sorted(set(shown_commands())))
def test_every_command_in_the_documentation_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    context = click.Context(command_line)
    command = command_line.get_command(context, name)
    assert command is not None, f"{line}: there is no such command"
    command.make_context(name, arguments)


def test_every_flag_has_the_same_meaning_everywhere() -> None:
    """One name, one type and one default, on whatever command it stands."""
    seen: dict[str, tuple[str, str, object]] = {}
    for name in command_line.list_commands(click.Context(command_line)):
        command = command_line.get_command(click.Context(command_line), name)
        assert command is not None
        for parameter in command.params:
            for flag in (option for option in parameter.opts if option.startswith("--")):
                if flag in ("--output", "--task"):
                    continue  # what is written and what may be left out differs, and is said
                facts = (str(parameter.type), str(parameter.default))
                first = seen.setdefault(flag, (name, *facts))
                assert first[1:] == facts, f"{flag} differs between {first[0]} and {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), target


def test_the_recipe_in_the_documentation_runs() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, namespace)  # noqa: S102 -- our own page
    for name in ("greedy_of_the_best_half", "greedy_of_a_share"):
        soup = namespace[name](toy_pool(2.5, 9.0, 1.5, -7.0), near(2.0))  # type: ignore[operator]
        assert soup.members == ("run0", "run2")


def test_the_public_names_are_there_and_documented() -> None:
    for name in ladle.__all__:
        assert getattr(ladle, name).__doc__, f"ladle.{name} has no docstring"
