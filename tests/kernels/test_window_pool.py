from __future__ import annotations

import numpy as np
from kernel_harness import Machine

from ofa_compile.compiler.workload import Pool


def pool(
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (2, 2),
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    reduction: str = "max",
    count_padding: bool = False,
    batch: int = 1,
) -> Pool:
    return Pool(
        batch,
        *size,
        kernel,
        stride,
        padding,
        channels=channels,
        reduction=reduction,
        count_padding=count_padding,
    )


def test_vector_tails(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    channels = (1, lanes - 1, lanes, 3 * lanes + 2)
    work = [pool((5, 4), n, padding=(0, 0, 0, 0)) for n in channels]
    machine.check(*work, pool((5, 4), lanes + 1, reduction="mean"), rng=rng)


def test_windows(machine: Machine, rng: np.random.Generator) -> None:
    none = (0, 0, 0, 0)
    work = [
        work
        for kind in ("max", "mean")
        for work in (
            pool((1, 1), 4, reduction=kind),
            pool((2, 3), 4, (3, 3), (1, 1), reduction=kind),
            pool((6, 7), 4, (2, 2), (2, 2), none, reduction=kind),
            pool((9, 5), 4, (1, 3), (2, 1), (0, 1, 0, 1), reduction=kind, batch=2),
        )
    ]
    work += [pool((8, 8), 4, (3, 3), (2, 2), (0, 0, 1, 1)), pool((5, 5), 4, (5, 5), (1, 1), none)]
    machine.check(*work, pool((5, 6), 4, reduction="mean", count_padding=True), rng=rng)


def test_maximum_of_very_negative_values(machine: Machine) -> None:
    class Lowest(np.random.Generator):
        def standard_normal(self, size: object = None, **_: object) -> np.ndarray:
            return np.full(size, -1.6e38)  # drawn values are twice this

    machine.check(pool((3, 3), 5), rng=Lowest(np.random.PCG64(0)))
