"""``python -m ofa_compile``."""

from __future__ import annotations

from ofa_compile.cli.app import main

if __name__ == "__main__":
    main()
