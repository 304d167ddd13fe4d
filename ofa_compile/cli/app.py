"""The `ofa-compile` command: its sub-commands, the default action, and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ofa_compile
from ofa_compile.cli.command_table import COMMANDS, DEFAULT_COMMAND, load_command
from ofa_compile.errors import OfaCompileError, UserInputError

_ROOT_OPTIONS = ("--help", "-h", "--version", "--debug")
_INTERRUPTED = 130
# The user's disk or permissions, not a fault of ours.
_ENVIRONMENT_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class _Interrupted(Exception):
    """Ctrl-C; a class of our own, since click would turn KeyboardInterrupt into exit 1."""


class _InterruptibleGroup(TyperGroup):
    """Tells Ctrl-C from failures."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise _Interrupted from err


def _show_version(value: bool) -> None:
    if value:
        print(f"ofa-compile {ofa_compile.__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="With errors, show the traceback (any command).")
    ] = False,
) -> None:
    """Turn a Once-for-All supernet into a small verified binary for a piece of hardware."""


def make_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Build the command line with the commands given."""
    app = typer.Typer(
        cls=_InterruptibleGroup,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog="Without a command the options are those of `compile`: "
        "ofa-compile --target arm64 --max-latency-ms 20",
    )
    app.callback()(root)
    for name in commands:
        module = load_command(name)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
            continue
        # `compile` says itself what is wrong with words that are no options.
        settings = {"allow_extra_args": name == DEFAULT_COMMAND}
        command = getattr(module, f"{name.replace('-', '_')}_command")
        app.command(name, epilog=module.EPILOG, context_settings=settings)(command)
    return app


def _with_command(arguments: Sequence[str]) -> list[str]:
    """Put `compile` in front of options that the root does not know; no words mean help."""
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    is_default = words[0].startswith("-") and words[0] not in _ROOT_OPTIONS
    return [DEFAULT_COMMAND, *words] if is_default else words


def run_app(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code, reporting errors on stderr."""
    debug = "--debug" in arguments
    words = _with_command(arguments)
    try:
        app = make_app(words[:1] if words[0] in COMMANDS else COMMANDS)
        app(args=words, prog_name="ofa-compile")
    except SystemExit as stop:
        return _flushed(stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1)
    except _Interrupted:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    except OfaCompileError as err:
        return _report(err, err.hint, err.exit_code, debug)
    except OSError as err:
        if err.errno not in _ENVIRONMENT_ERRORS:
            raise
        return _report(err, None, UserInputError.exit_code, debug)
    return _flushed(0)


def _report(err: Exception, hint: str | None, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(err)
    sys.stderr.write(f"error: {err}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    return exit_code


def _flushed(code: int) -> int:
    """Flush stdout; a reader that has gone away (`| head`) is no error worth words."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Keeps the interpreter from failing on the same flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
