"""Draw a result of bench_runtimes.py: how many times faster ours is, per subnet and runtime.

Needs requirements-plots.txt:

    python benchmarks/plot_runtimes.py RESULT.json runtimes.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

OURS = "ofa-compile"
# Runtimes many times slower would press all others into one line.
SHOWN = 4.0


def ratios(document: dict[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return runtime -> subnet -> (16 %, median, 84 %) of "ours is faster by", as measured."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for subnet, figures in document["subnets"].items():
        for runtime, entry in figures["runtimes"].items():
            if runtime != OURS and "speedup_median" in entry:
                low, middle, high = (
                    entry[f"speedup_{name}"] for name in ("16_percent", "median", "84_percent")
                )
                found.setdefault(runtime, {})[subnet] = (low, middle, high)
    return found


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw one row per subnet, smallest first, and one mark per runtime."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "plots need matplotlib: pip install -r benchmarks/requirements-plots.txt"
        raise SystemExit(message) from error
    subnets = sorted(document["subnets"], key=lambda name: document["subnets"][name]["macs"])
    place = {name: number for number, name in enumerate(subnets)}
    figure = Figure(figsize=(9, 0.24 * len(subnets) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color="black", linewidth=1)
    for number, (runtime, by_subnet) in enumerate(sorted(ratios(document).items())):
        shown = {name: values for name, values in by_subnet.items() if values[1] <= SHOWN}
        middle = [values[1] for values in shown.values()]
        spread = [[v[1] - v[0] for v in shown.values()], [v[2] - v[1] for v in shown.values()]]
        axes.errorbar(
            middle, [place[name] for name in shown], xerr=spread, linestyle="none",
            marker="osD^vP*X"[number % 8], markersize=5, elinewidth=0.7,
            label=runtime if len(shown) == len(by_subnet) else f"{runtime} (some beyond {SHOWN:g})",
        )  # fmt: skip
    labels = [f"{name} ({document['subnets'][name]['macs'] / 1e6:.0f} M)" for name in subnets]
    axes.set_yticks(range(len(subnets)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("times ours is faster (median over rounds, 16-84 %)")
    machine = document["provenance"]["machine"]["processor"]
    threads = document["threads"]
    axes.set_title(f"{machine}, {threads} thread{'s' if threads > 1 else ''}, batch 1", fontsize=10)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read, draw."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("result", type=Path, help="what bench_runtimes.py --output wrote")
    arguments.add_argument("picture", type=Path, help="SVG or PNG to write")
    options = arguments.parse_args()
    draw(json.loads(options.result.read_text(encoding="utf-8")), options.picture)


if __name__ == "__main__":
    main()
