"""`--recipe` and the options of recipes: a recipe's signature says what it takes.

Of the keywords of a recipe, `cook` supplies some itself (the base, the seed, ...); the others are
options. The built-in ones have names of their own (`ladle.recipes.OPTIONS`), whatever else a recipe
of the user's or of a package takes is given as `--option NAME=VALUE`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ladle.errors import BadInput

if TYPE_CHECKING:
    from ladle.cook import Recipe
    from ladle.recipes import Option
    from ladle.soup import Evaluate, Pool, Soup

_SUPPLIED = {
    "base": "--base, the checkpoint that the others were fine-tuned from",
}
"""What `cook` may have for a recipe, and how it is given, where it is not always there."""

_NEVER_OPTIONS = ("map",)

recipe = click.option(
    "--recipe", default="greedy", show_default=True, help="See below, or FILE.py:FUNCTION."
)
option = click.option(
    "--option",
    "further",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of a recipe of your own, or of a package's: what its function takes.",
)


class CommandWithRecipes(click.Command):
    """A command whose function is given the options of recipes as further keywords.

    They are asked for when the command is used: recipes need numpy, which takes time to load.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_parameters()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ladle.recipes import RECIPES

        about = [(name, _first_line(function)) for name, function in RECIPES.items()]
        sections = {
            "Options": _records(super().get_params(ctx), ctx),
            "Recipes": about,
            "Options of recipes": _records(_parameters(), ctx),
        }
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def chosen(
    name: str, given: Mapping[str, Any], further: Iterable[str], supplied: Mapping[str, Any]
) -> Recipe:
    """The recipe of a name with its options, ready to be called.

    `given` are the options of recipes, False or None where they were not given; `further` are texts
    such as `share=0.5`. `supplied` is what there may be for recipes that take it, or None.

    Raises:
        BadInput: there is no such recipe, it has no such option, or it needs what is not there.
    """
    from ladle.recipes import OPTIONS

    function = _function(name)
    keywords = _keywords(function)
    takes_all = any(one.kind is one.VAR_KEYWORD for one in keywords.values())
    options = {key: value for key, value in given.items() if value is not None}
    options = {key: value for key, value in options.items() if value is not False}
    for key in options:
        if key not in keywords and not takes_all:
            others = _listed(_having(key))
            raise BadInput(f"{_flag(key)} goes with --recipe {others}, not with {name}")
    for text in further:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--option {text!r}: write it as NAME=VALUE")
        if key in OPTIONS:
            raise BadInput(f"--option {text}: {key} is an option itself; write {_flag(key)}")
        if key in supplied or (key not in keywords and not takes_all):
            own = [one for one in keywords if one not in (*supplied, *_NEVER_OPTIONS)]
            known = ", ".join(own) or "none"
            raise BadInput(f"--recipe {name} has no option {key!r}; its options are: {known}")
        options[key] = _parsed(value)
    there = {key: value for key, value in supplied.items() if value is not None}
    supply = {key: value for key, value in there.items() if key in keywords}
    for key, keyword in keywords.items():
        is_one = keyword.kind not in (keyword.VAR_KEYWORD, keyword.VAR_POSITIONAL)
        if is_one and keyword.default is keyword.empty and key not in {**options, **supply}:
            raise BadInput(f"--recipe {name} needs {_SUPPLIED.get(key, _flag(key))}")
    with_options = functools.partial(function, **options, **supply)

    def recorded(pool: Pool, evaluate: Evaluate) -> Soup:
        from ladle.soup import Soup

        found: Soup = with_options(pool, evaluate)
        # What is no soup is for `cook` to complain of.
        told = isinstance(found, Soup)
        return replace(found, options={**options, **found.options}) if told else found

    return recorded


def _function(name: str) -> Callable[..., Any]:
    from ladle.foreign import is_reference, load_function, offered
    from ladle.recipes import RECIPES

    if name in RECIPES:
        return RECIPES[name]
    if is_reference(name):
        return load_function(name)
    others = offered("ladle.recipes")
    if name in others:
        found: Callable[..., Any] = others[name].load()
        return found
    known = ", ".join([*RECIPES, *others])
    raise BadInput(f"--recipe {name!r} is none of {known} and no FILE.py:FUNCTION")


def _keywords(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a recipe takes beside the pool and the evaluation."""
    try:
        found = list(inspect.signature(function).parameters.items())
    except ValueError:  # It is written in C, and does not tell.
        return {}
    named = [(name, one) for name, one in found if one.kind is not one.VAR_POSITIONAL]
    return dict(named[2:])


def _having(key: str) -> list[str]:
    from ladle.recipes import RECIPES

    return [name for name, function in RECIPES.items() if key in _keywords(function)]


@functools.cache
def _parameters() -> Sequence[click.Option]:
    from ladle.recipes import OPTIONS

    return [_parameter(key, one) for key, one in OPTIONS.items()]


def _parameter(key: str, one: Option) -> click.Option:
    kind: Any = one.kind
    if isinstance(kind, tuple):
        kind = click.Choice(kind)
    elif kind is int:
        kind = click.IntRange(one.least, one.most)  # type: ignore[arg-type]
    elif kind is float:
        kind = click.FloatRange(one.least, one.most)
    return click.Option(
        [_flag(key), key],
        type=kind,
        is_flag=one.kind is bool,
        default=None,
        metavar=one.metavar,
        help=f"{_listed(_having(key))}: {one.about}.",
    )


def _records(parameters: Iterable[click.Parameter], ctx: click.Context) -> list[tuple[str, str]]:
    found = (one.get_help_record(ctx) for one in parameters)
    return [record for record in found if record is not None]


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _parsed(text: str) -> Any:
    from ladle.runs.facts import parsed

    return parsed(text)
