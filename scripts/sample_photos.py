"""Print the paths of the photographs in scikit-image's wheel that the demonstration uses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# chelsea is a cat and horse.png the outline of a horse; the other two belong to none of the ten
# CIFAR-10 classes and show what a classifier makes of the unknown.
PHOTOS = ("chelsea.png", "horse.png", "rocket.jpg", "motorcycle_left.png")


def main() -> int:
    """Print the paths of the photographs that exist."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.stderr.write("scikit-image is not installed: pip install 'ofa-compile[dev]'\n")
        return 1
    folder = Path(spec.origin).parent / "data"
    sys.stdout.write("".join(f"{folder / p}\n" for p in PHOTOS if (folder / p).is_file()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
