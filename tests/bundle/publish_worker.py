"""Publishes one version after another of a folder, until it is killed. Started by test_publish."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from ofa_compile.bundle.manifest import MANIFEST_NAME, Manifest, content_files, hash_file
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.publish import publish, resolve_output, staging_folder
from ofa_compile.hardware.platform import LINUX


def write_version(folder: Path, version: int) -> None:
    """Fill a folder with files that name their version, and their manifest."""
    for name in content_files(LINUX):
        (folder / name).write_text(f"{name} {version}\n" * 2000)
    manifest = Manifest(
        input_shape=(1, 3, 8, 8),
        output_shape=(1, 1),
        preprocessing=Preprocessing(height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1)),
        labels=(f"version {version}",),
        symbol_prefix="x_",
        target={"name": "none"},
        files={name: hash_file(folder / name) for name in content_files(LINUX)},
    )
    (folder / "manifest.json").write_text(manifest.to_json())


def publish_version(output: Path, version: int) -> None:
    resolved = resolve_output(output)
    with staging_folder(resolved) as staging:
        write_version(staging, version)
        publish(staging, resolved)


if __name__ == "__main__":
    assert {MANIFEST_NAME, *content_files(LINUX)}
    first = int(sys.argv[2])
    print("ready", flush=True)
    for number in itertools.count(first):
        publish_version(Path(sys.argv[1]), number)
