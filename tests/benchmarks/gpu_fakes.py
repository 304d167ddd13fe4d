"""Runtimes that misbehave, for the GPU benchmark to survive; named to it as gpu_fakes:CLASS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Good:
    """Computes what it should, in half a millisecond."""

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        few = np.array(facts["logits"], np.float32)
        self.expected = np.concatenate([few] * facts["batch"])[: facts["batch"]]

    @staticmethod
    def describe() -> str:
        return "a fake"

    def logits(self) -> np.ndarray:
        return self.expected

    def device_ms(self, repeats: int) -> np.ndarray:
        return np.full(repeats, 0.5)

    def end_to_end_ms(self, repeats: int) -> np.ndarray:
        return np.full(repeats, 0.75)

    def runs(self, repeats: int) -> int:
        return repeats

    def close(self) -> None:
        pass


class Hanging(Good):
    """Loads, and hangs in its first turn."""

    calls = 0

    def device_ms(self, repeats: int) -> np.ndarray:
        self.calls += 1
        if self.calls > 1:  # the first is the trial of `load`
            time.sleep(3600)
        return super().device_ms(repeats)


class Stuck(Good):
    """Never finishes loading."""

    def logits(self) -> np.ndarray:
        time.sleep(3600)
        return self.expected


class Dying(Hanging):
    """Dies by a signal in its first turn."""

    def device_ms(self, repeats: int) -> np.ndarray:
        self.calls += 1
        if self.calls > 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return Good.device_ms(self, repeats)


class Greedy(Good):
    """Runs out of memory on all but single images."""

    def logits(self) -> np.ndarray:
        if len(self.expected) > 1:
            raise MemoryError("out of memory on the device")
        return self.expected


class Wrong(Good):
    """Computes something else."""

    def logits(self) -> np.ndarray:
        return self.expected + np.abs(self.expected).max() / 100


class Absent(Good):
    """Is not installed."""

    @staticmethod
    def describe() -> str:
        raise ImportError("No module named 'absent'")


class Murderous(Good):
    """Takes the whole run down with it as soon as it is asked for anything."""

    @staticmethod
    def describe() -> str:
        os.kill(os.getppid(), signal.SIGKILL)
        return "the last words"


class Unbuildable(Good):
    """Refuses every network."""

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        raise ValueError("no such operator")


class Endless(Good):
    """Searches for ever."""

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        time.sleep(3600)
