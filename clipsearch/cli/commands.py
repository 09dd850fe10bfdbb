"""The table of commands. Each is a module of this folder that is imported when its command is asked for, so that a
query waits for no other."""

from __future__ import annotations

import itertools
import math
from importlib import import_module
from typing import Any


class Command:
    """A command, whose module has its name: an `app` with the command, or with a group of commands.

    `answers`: it searches, and matrices are multiplied in one thread (see `__main__`). `brief`: it is over before there
    is garbage to collect.
    """

    def __init__(self, *, answers: bool = False, brief: bool = False) -> None:
        self.answers, self.brief = answers, brief


COMMANDS: dict[str, Command] = {
    "index": Command(),
    "read": Command(),
    "caption": Command(),
    "query": Command(answers=True, brief=True),
    "status": Command(),
    "verify": Command(),
    "compact": Command(),
    "export": Command(),
    "tune": Command(),
    "models": Command(),
    "eval": Command(),
    "classify": Command(),
    "similar": Command(answers=True),
    "where": Command(answers=True),
    "dedupe": Command(),
    "illustrate": Command(),
    "concept": Command(),
    "saved": Command(),
    "serve": Command(answers=True),
    "mcp": Command(answers=True),
    "train": Command(),
    "ui": Command(answers=True),
}
"""NAME -> what is known of it without loading it, in the order of `clipsearch --help`."""

TRAIN_COMMANDS = ("probe",)
"""Commands below `clipsearch train`, but for the one that trains on pairs."""


def load_command(name: str) -> Any:
    """Import the module of a command and return the command, or the group of that name."""
    import click
    import typer

    group = typer.main.get_group(import_module(f"clipsearch.cli.{name}").app)
    for command in (group, *group.commands.values()):
        if any("--index" in parameter.opts and not parameter.multiple for parameter in command.params):
            _refuse_several_indexes(command)
        for parameter in command.params:
            if parameter.type.name.startswith("float"):
                _refuse_no_number(parameter.type)
            if isinstance(parameter.type, click.Path):
                _refuse_no_name(parameter.type)
    return group.commands.get(name, group)


def _refuse_several_indexes(command: Any) -> None:
    """Let a command that works with one index refuse `--index` twice: it would take the last."""
    parse = command.parse_args

    def parse_args(context: Any, arguments: list[str]) -> Any:
        options = itertools.takewhile(lambda argument: argument != "--", arguments)
        if sum(argument == "--index" or argument.startswith("--index=") for argument in options) > 1:
            context.fail("--index can be given only once here. Several are taken by: query, similar, serve, ui, mcp.")
        return parse(context, arguments)

    command.parse_args = parse_args


def _refuse_no_number(kind: Any) -> None:
    """Let a type of numbers refuse what is none: it would pass every limit. Days may be without end."""
    convert = kind.convert

    def number(value: Any, parameter: Any, context: Any) -> Any:
        converted = convert(value, parameter, context)
        if math.isnan(converted) or (math.isinf(converted) and parameter.metavar != "DAYS"):
            kind.fail(f"{value!r} is not a number.", parameter, context)
        return converted

    kind.convert = number


def _refuse_no_name(kind: Any) -> None:
    """Let a type of paths refuse one without a letter, as of a variable that was never set: it would be the folder that
    one happens to be in."""
    convert = kind.convert

    def path(value: Any, parameter: Any, context: Any) -> Any:
        if value in ("", b""):
            kind.fail(
                "the name is empty. Perhaps a variable has no value. For the current folder, write .",
                parameter,
                context,
            )
        return convert(value, parameter, context)

    kind.convert = path
