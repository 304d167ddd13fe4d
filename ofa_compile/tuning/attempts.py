"""Items that one worker treats together, any of which may take it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ofa_compile.errors import TuningError
from ofa_compile.tuning.worker import Worker, WorkerFailure

Item = TypeVar("Item")
Result = TypeVar("Result")


def settle(
    items: Sequence[Item],
    attempt: Callable[[list[Item]], Mapping[int, Result]],
    settled: Mapping[int, Result],
) -> list[Result]:
    """Attempt items until each has a result: one that fails is out, the others go on.

    Parameters
    ----------
    items
        What to treat.
    attempt
        Returns results by position, of one item at least; the others are tried again.
    settled
        Results that are known before, by position.
    """
    results = dict(settled)
    while len(results) < len(items):
        waiting = [number for number in range(len(items)) if number not in results]
        found = attempt([items[number] for number in waiting])
        results.update({waiting[place]: result for place, result in found.items()})
    return [results[number] for number in range(len(items))]


def ask_for_each(
    worker: Worker, request: dict[str, Any], timeout_s: float
) -> dict[int, dict[str, Any] | WorkerFailure]:
    """Return what a worker says of each item; if it fails, only how, of the item it failed on.

    It replies `starting=NUMBER` before it does anything with an item, and `result=NUMBER` with
    what there is to say.

    Raises
    ------
    TuningError
        If the worker cannot do what was asked, before the first item.
    """
    found: dict[int, dict[str, Any] | WorkerFailure] = {}
    current = -1
    try:
        for reply in worker.call(request, timeout_s):
            if "starting" in reply:
                current = reply["starting"]
            else:
                found[reply.pop("result")] = reply
    except TuningError as error:
        if current < 0:  # not an item's fault
            raise
        return {current: WorkerFailure(str(error))}
    except WorkerFailure as failure:
        return {max(0, current): failure}
    return found
