"""The program: what every command does about errors and signals."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from clipsearch import __version__
from clipsearch.cli.commands import COMMANDS, load_command
from clipsearch.cli.options import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, notice, system_advice, system_words
from clipsearch.cli.terminal import outlive_readers, print_nowhere, speak_any_name
from clipsearch.errors import ClipsearchError, IndexWarning, InvalidArgument, InvalidQuery, NoSuchPicture
from clipsearch.filenames import safe


class _Commands(typer.core.TyperGroup):
    """The commands of the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Typer would end without a word at Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Abort from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Type a sentence, see your photos. Everything runs on this machine.

    \b
      clipsearch index ./photos
      clipsearch query "a dog on a beach"
    """,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"clipsearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if not COMMANDS[context.invoked_subcommand or ""].brief:
        gc.enable()


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """What clipsearch says of an index, as a line; warnings of libraries are for their developers."""
    if issubclass(category, IndexWarning):
        notice(str(message))


def main() -> None:
    """The program. Exits with 0, or: 1 error, 2 wrong usage, 3 nothing found, 130 interrupted.

    They are the same if whoever reads its output has seen enough: what is left to do is done.
    """
    warnings.showwarning = _show_warning
    outlive_readers()
    speak_any_name()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except (InvalidArgument, InvalidQuery, NoSuchPicture) as error:
        _fail(str(error), EXIT_USAGE)
    except ClipsearchError as error:
        _fail(str(error), EXIT_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if not _was_printing(error):
            _fail(f"{system_words(error)}. {system_advice(error)}", EXIT_ERROR)
        print_nowhere(sys.stdout.fileno())
        _fail(f"cannot write the output: {error.strerror or error}", EXIT_ERROR)
    except Exception as error:
        if _was_interrupted(error):
            _fail("interrupted", EXIT_INTERRUPTED)
        show, status = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or status is None:  # not typer's word for wrong usage: a bug of ours
            raise
        show()
        sys.exit(status)
    sys.exit(code if isinstance(code, int) else 0)


def _was_printing(error: OSError) -> bool:
    """Whether an error comes from writing the answer: from code that prints, and about no file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return error.filename is None and module.startswith(("clipsearch.cli", "typer", "click"))


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: compiled libraries that are just being loaded make an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(message: str, code: int) -> NoReturn:
    for n, line in enumerate(message.split("\n")):
        print(safe(line) if n else f"clipsearch: {safe(line)}", file=sys.stderr)
    sys.exit(code)
