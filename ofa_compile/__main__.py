"""Entry point of `ofa-compile` and of ``python -m ofa_compile``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code; Ctrl-C is one line even while loading."""
    try:
        from ofa_compile.cli.app import run_app

        code = run_app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
