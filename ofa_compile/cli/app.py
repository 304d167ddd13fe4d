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
from ofa_compile.cli import (
    cache,
    compile,
    device,
    doctor,
    evaluate,
    export,
    finetune,
    fit_accuracy,
    fit_latency,
    measure,
    report,
    run,
    search,
    supernet,
    targets,
    train,
    tune,
)
from ofa_compile.errors import OfaCompileError, UserInputError

_DEFAULT_COMMAND = "compile"
_ROOT_OPTIONS = ("--help", "-h", "--version", "--debug")
_INTERRUPTED = 130
# The user's disk or permissions, not a fault of ours.
_ENVIRONMENT_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class _Interrupted(Exception):
    """Ctrl-C; a class of our own, since click would turn KeyboardInterrupt into exit 1."""


class _DefaultActionGroup(TyperGroup):
    """Options without a command belong to `compile`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `compile` in front of options that the root does not know; no words mean help."""
        if not args:
            args = ["--help"]
        elif args[0].startswith("-") and args[0] not in _ROOT_OPTIONS:
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, keeping Ctrl-C apart."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise _Interrupted from err


app = typer.Typer(
    cls=_DefaultActionGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Without a command the options are those of `compile`: "
    "ofa-compile --target arm64 --max-latency-ms 20",
)


def _show_version(value: bool) -> None:
    if value:
        print(f"ofa-compile {ofa_compile.__version__}")
        raise typer.Exit


@app.callback()
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


app.command(
    "compile",
    epilog=compile.EPILOG,
    context_settings={"allow_extra_args": True},
)(compile.compile_command)
for _name, _module, _command in (
    ("export", export, export.export_command),
    ("search", search, search.search_command),
    ("tune", tune, tune.tune_command),
    ("measure", measure, measure.measure_command),
    ("report", report, report.report_command),
    ("fit-latency", fit_latency, fit_latency.fit_latency_command),
    ("fit-accuracy", fit_accuracy, fit_accuracy.fit_accuracy_command),
    ("train", train, train.train_command),
    ("evaluate", evaluate, evaluate.evaluate_command),
    ("finetune", finetune, finetune.finetune_command),
    ("run", run, run.run_command),
    ("doctor", doctor, doctor.doctor_command),
):
    app.command(_name, epilog=_module.EPILOG)(_command)
app.add_typer(targets.app, name="targets")
app.add_typer(device.app, name="device")
app.add_typer(supernet.app, name="supernet")
app.add_typer(cache.app, name="cache")


def run_app(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code, reporting errors on stderr."""
    debug = "--debug" in arguments
    try:
        app(args=[a for a in arguments if a != "--debug"], prog_name="ofa-compile")
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
