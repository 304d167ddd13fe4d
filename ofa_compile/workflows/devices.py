"""The boards behind a tracker, and the daemon that runs on them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.board_address import (
    BOARD_VARIABLE,
    TRACKER_VARIABLE,
    board_address,
    parse_endpoint,
)
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.remote.daemon import build_daemon
from ofa_compile.remote.tracker import KeySummary, Tracker


def list_devices(target: str | None, tracker: str | None) -> tuple[str, dict[str, KeySummary]]:
    """Ask a tracker what boards it knows.

    Parameters
    ----------
    target
        Only this target's boards; its tracker, unless another one is named.
    tracker
        "HOST:PORT"; None takes the target's, or the environment's.

    Returns
    -------
    The tracker's address, and what it knows by key.

    Raises
    ------
    DeviceUnavailableError
        If no tracker is named, or it does not answer.
    """
    key = None
    if target is not None:
        spec = load_target(target)
        key = spec.runner.key or spec.name
        if tracker is None:
            address = board_address(dataclasses.asdict(spec.runner), spec.name)
            if not address.is_tracker:
                message = f"target '{target}' has a single board at {address.endpoint}, no tracker"
                hint = f"unset {BOARD_VARIABLE}, or name a tracker with --tracker"
                raise DeviceUnavailableError(message, hint=hint)
            tracker = str(address.endpoint)
    tracker = tracker or os.environ.get(TRACKER_VARIABLE)
    if not tracker:
        message = "nothing says where the tracker is"
        hint = f"--tracker HOST:PORT, or {TRACKER_VARIABLE}, or --target with a target for boards"
        raise DeviceUnavailableError(message, hint=hint)
    endpoint = parse_endpoint(tracker, "the tracker")
    with Tracker(endpoint) as connection:
        found = connection.summary()
    empty = KeySummary(boards=(), num_free=0, num_waiting=0)
    return str(endpoint), found if key is None else {key: found.get(key, empty)}


def build_device_daemon(target: str, output: Path | None) -> dict[str, Any]:
    """Build the daemon for boards of a target, as `ofa-compile device build` does."""
    spec = load_target(target)
    path = output or Path(f"ofa-board-{spec.name}")
    size = build_daemon(spec, path)
    key = spec.runner.key or spec.name
    return {
        "daemon": str(path),
        "target": spec.name,
        "bytes": size,
        "start_it_with": f"./{path.name} --listen BOARD_ADDRESS:9090 --tracker TRACKER_ADDRESS:9190"
        f" --key {key}",
    }
