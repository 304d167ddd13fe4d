"""The HTML page: one file that works without a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import UserInputError


def render_page(document: Mapping[str, Any]) -> str:
    """Return the page for a report document (see `document.build_document`).

    The document is embedded as it is, so that what the page shows can be read back.
    """
    # "<" inside strings could end the script element; JSON allows it to be written as an escape.
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "@STYLE@": _resource("report.css"),
        "@SCRIPT@": _resource("report.js"),
        "@TITLE@": html.escape(str(document["title"])),
        "@DATA@": data,
    }
    return re.sub("|".join(parts), lambda found: parts[found[0]], _resource("template.html"))


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the page; a reader sees the old one or the new one, never a part.

    Raises
    ------
    UserInputError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staging:
            staging.write_text(render_page(document), encoding="utf-8")
    except OSError as error:
        message = f"cannot write the report to {path}: {error.strerror}"
        raise UserInputError(message) from error


def _resource(name: str) -> str:
    return (files("ofa_compile.report") / name).read_text(encoding="utf-8")
