"""`ofa-compile cache`: the object cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output

if TYPE_CHECKING:
    from ofa_compile.cache import CacheInfo

app = typer.Typer(no_args_is_help=True, help="The cache of compiled objects.")


@app.command("info", epilog="Example: ofa-compile cache info")
def info_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """Say where the cache is and how large it is."""
    from ofa_compile.cache import Cache

    _report(Output(as_json=as_json, quiet=quiet), Cache().info())


@app.command("clear", epilog="Example: ofa-compile cache clear")
def clear_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """Delete what is cached (it is made again when needed) and say what was there."""
    from ofa_compile.cache import Cache

    _report(Output(as_json=as_json, quiet=quiet), Cache().clear())


def _report(channel: Output, info: CacheInfo) -> None:
    channel.report(
        {
            "folder": str(info.root),
            "num_entries": info.num_entries,
            "num_bytes": info.num_bytes,
            "max_bytes": info.max_bytes,
        }
    )
