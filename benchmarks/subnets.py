"""The subnets that runtimes are compared on: two fixed ones, the published ones, random ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ofa_compile.space import Architecture, search_space

W10 = "ofa_mbv3_d234_e346_k357_w1.0"
W12 = "ofa_mbv3_d234_e346_k357_w1.2"
PROXYLESS = "ofa_proxyless_d234_e346_k357_w1.3"


def fixed() -> dict[str, Architecture]:
    """Return `small` (every choice the smallest) and `mid` (mixed), 224 px, width 1.0."""
    mid = Architecture(
        space=W10,
        resolution=224,
        depths=(2, 3, 3, 3, 3),
        kernel_sizes=((3, 5), *[(3, 5, 7)] * 4),
        expand_ratios=((3, 4), *[(3, 4, 6)] * 4),
    )
    return {"small": search_space(W10).smallest(224), "mid": mid}


def published(path: Path) -> dict[str, Architecture]:
    """Return the authors' specialised subnets (widths 1.0 and 1.2, ProxylessNAS), by name."""
    found = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        space = W10 if entry["stem_channels"] == 16 else W12
        if entry["network"] == "ProxylessNASNets":
            space = PROXYLESS
        name = entry["name"].split("_top1")[0]
        fields = ("resolution", "depths", "kernel_sizes", "expand_ratios")
        found[name] = Architecture(space=space, **{field: entry[field] for field in fields})
    return found


def sampled(count: int, seed: int) -> dict[str, Architecture]:
    """Return random subnets of the three spaces in turn, at random resolutions."""
    rng = np.random.default_rng(seed)
    spaces = [search_space(name) for name in (W10, W12, PROXYLESS)]
    return {f"random-{n:02d}": spaces[n % 3].sample(rng) for n in range(count)}
