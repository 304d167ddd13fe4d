"""A headless Chromium, driven through its own debugging protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_LIMIT_S = 120.0


class Page:
    """One open page."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.errors: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; errors that the page reports meanwhile are kept."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        await self._connection.write_message(json.dumps(request))
        while True:
            text = await asyncio.wait_for(self._connection.read_message(), _LIMIT_S)
            assert isinstance(text, str), "the browser has gone away"
            message = json.loads(text)
            self._note(message)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, path: Path) -> None:
        """Open a file and wait until its script is done."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=path.as_uri())
        end = time.monotonic() + _LIMIT_S
        while await self.evaluate("document.body && document.body.dataset.ready") != "yes":
            assert time.monotonic() < end, f"the page is not ready: {self.errors}"
            await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.errors.append(f"request to {url}")


def with_page(folder: Path, visit: Callable[[Page], Awaitable[None]]) -> None:
    """Start a browser with its files in `folder`, let `visit` use a page, and end it."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        asyncio.run(_visit(folder / "profile" / "DevToolsActivePort", visit))
    finally:
        process.kill()
        process.wait()


async def _visit(port_file: Path, visit: Callable[[Page], Awaitable[None]]) -> None:
    end = time.monotonic() + _LIMIT_S
    while not (port_file.is_file() and port_file.read_text(encoding="utf-8").count("\n")):
        assert time.monotonic() < end, "the browser does not start"
        await asyncio.sleep(0.1)
    port = int(port_file.read_text(encoding="utf-8").split()[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_LIMIT_S) as answer:
        (target,) = (entry for entry in json.load(answer) if entry["type"] == "page")
    connection = await websocket_connect(target["webSocketDebuggerUrl"])
    try:
        await visit(Page(connection))
    finally:
        connection.close()
        # None says that the socket is closed; before that it would be one that leaks.
        while await asyncio.wait_for(connection.read_message(), _LIMIT_S) is not None:
            continue
