"""Builds the C sources around a stub network, for this machine and for arm64."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ofa_compile.runtime
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing

RUNTIME = Path(ofa_compile.runtime.__file__).parent
STUB = Path(__file__).parent / "stub_network.c"
SESSION_SOURCES = ("ofa_call.c", "ofa_pages.c", "ofa_session.c", "ofa_weights.c")
EXECUTABLE_SOURCES = (
    "main.c",
    "options.c",
    "report.c",
    "image.c",
    "subnet_abi.c",
    *SESSION_SOURCES,
)
LIBRARY_SOURCES = ("subnet_abi.c", *SESSION_SOURCES)
FLAGS = ("-std=c11", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fvisibility=hidden")

COMPILERS = {"native": "gcc", "arm64": "aarch64-linux-gnu-gcc"}
EMULATORS: dict[str, tuple[str, ...]] = {"native": (), "arm64": ("qemu-aarch64",)}

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def missing_tools(platform: str) -> list[str]:
    """Return the tools that building and running for a platform would need."""
    tools = [COMPILERS[platform], *EMULATORS[platform]]
    return [tool for tool in tools if shutil.which(tool) is None]


@dataclass(frozen=True)
class Program:
    """A built executable and how it is started."""

    path: Path
    platform: str = "native"

    def run(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
        command = [*EMULATORS[self.platform], str(self.path), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]

    def logits(self, *arguments: object) -> NDArray[np.float32]:
        """Run with `--logits` and return what it wrote."""
        target = self.path.with_suffix(".logits")
        done = self.run("--logits", target, *arguments)
        assert done.returncode == 0, done.stderr
        return np.fromfile(target, dtype="<f4")


def build_program(
    folder: Path,
    platform: str = "native",
    *,
    defines: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    labels: tuple[str, ...] = ("cat", "dog"),
    crop_fraction: float = 1.0,
    network_meta: str = "",
) -> Program:
    """Link the executable statically, as bundles do for arm64."""
    preprocessing = Preprocessing(
        height=8, width=8, mean=IMAGENET["mean"], std=IMAGENET["std"], crop_fraction=crop_fraction
    )
    header = network_meta or render_network_meta(preprocessing, labels)
    (folder / "network_meta.h").write_text(header)
    output = folder / "subnet"
    sources = [str(RUNTIME / name) for name in EXECUTABLE_SOURCES]
    linking = flags or ("-static",)
    compile_c(folder, output, [*sources, str(STUB)], [*linking, *defines], platform)
    return Program(output, platform)


def build_library(
    folder: Path, prefix: str, platform: str = "native", defines: tuple[str, ...] = ()
) -> Path:
    """Link the shared library, checking the generated header against the definitions."""
    template = (RUNTIME / "subnet_template.h").read_text()
    (folder / "subnet.h").write_text(template.replace("@PREFIX@", prefix))
    output = folder / f"lib{prefix}.so"
    sources = [str(RUNTIME / name) for name in LIBRARY_SOURCES]
    header = '-DOFA_SUBNET_HEADER="subnet.h"'
    flags = ["-shared", "-fPIC", f"-DOFA_PREFIX={prefix}", header, *defines]
    compile_c(folder, output, [*sources, str(STUB)], flags, platform)
    return output


def compile_c(
    folder: Path, output: Path, sources: list[str], flags: list[str], platform: str
) -> None:
    """Compile and link; warnings are errors."""
    if not any(flag.startswith("-DOFA_PREFIX") for flag in flags):
        flags = [*flags, "-DOFA_PREFIX=ofa_test_"]
    command = [COMPILERS[platform], *FLAGS, f"-I{RUNTIME}", f"-I{folder}", *flags, *sources]
    done = subprocess.run(
        [*command, "-o", str(output), "-lm", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_ppm(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Path:
    """Write a P6 file of 8 or 16 bits."""
    height, width, _ = pixels.shape
    largest = np.iinfo(pixels.dtype).max
    data = pixels.astype(">u2").tobytes() if largest > 255 else pixels.tobytes()
    path.write_bytes(f"P6\n# made by a test\n{width} {height}\n{largest}\n".encode() + data)
    return path
