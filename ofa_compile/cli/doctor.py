"""`ofa-compile doctor`: what this machine has and lacks."""

from __future__ import annotations

from ofa_compile.cli import common_options as opt
from ofa_compile.cli.render import Output, table

EPILOG = "Example: ofa-compile doctor"


def doctor_command(as_json: opt.Json = False, quiet: opt.Quiet = False) -> None:
    """Show what this machine has and lacks, with the line that installs what is lacking."""
    from ofa_compile.diagnosis import examine_machine

    checks = examine_machine()
    rows = [("ok" if c.is_ok else "lacking", c.name, c.detail, c.needed_for) for c in checks]
    hints = [f"for {c.needed_for}: {c.hint}" for c in checks if c.hint]
    text = table(("", "name", "found", "needed for"), rows)
    if hints:
        text = "\n".join([text, "", *hints])
    Output(as_json=as_json, quiet=quiet).result({"checks": [c.to_dict() for c in checks]}, text)
