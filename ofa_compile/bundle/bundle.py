"""A bundle: the folder that `compile` writes, loaded."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ofa_compile.bundle.executor import Executable, emulator_command, is_native
from ofa_compile.bundle.manifest import (
    MANIFEST_NAME,
    Manifest,
    hash_file,
)
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.preprocess import ImageSource
from ofa_compile.errors import ArtifactError, DeviceUnavailableError, UserInputError
from ofa_compile.hardware.board_address import is_on_board

if TYPE_CHECKING:
    from ofa_compile.remote.program import BoardProgram


@dataclass(frozen=True)
class ClassProbability:
    """One class that an image may show."""

    index: int
    label: str
    probability: float


class Bundle:
    """A compiled subnet on disk. Get one from `load_bundle` or `compile`.

    Parameters
    ----------
    path
        Its folder.
    manifest
        The folder's manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.manifest.input_shape))
        return f"Bundle({str(self.path)!r}, {self.manifest.target['name']}, {shape})"

    @property
    def is_native(self) -> bool:
        """Whether this machine runs the bundle itself, without an emulator."""
        return is_native(self.manifest.target)

    @cached_property
    def library(self) -> NativeLibrary:
        """The shared library, loaded into this process.

        Raises
        ------
        DeviceUnavailableError
            If it is for another kind of machine.
        """
        if not self.is_native:
            target = self.manifest.target
            msg = f"the library is for {target['name']} ({target['arch']}), not for this machine"
            raise DeviceUnavailableError(msg, hint="time it on the device")
        return NativeLibrary(
            self.path / self.manifest.platform.library, self.manifest.symbol_prefix
        )

    @cached_property
    def executable(self) -> Executable:
        """The executable, with an emulator where the machine needs one.

        Raises
        ------
        DeviceUnavailableError, MissingDependencyError
            If nothing here can run it.
        """
        command = emulator_command(self.manifest.target)
        path = self.path / self.manifest.platform.executable
        return Executable(path, self.manifest.output_shape[1], command)

    def run(self, x: ArrayLike, *, threads: int = 1) -> NDArray[np.float32]:
        """Compute logits: in this process, in the emulator, or on a board of the target.

        Parameters
        ----------
        x
            Normalised float32 inputs of shape (N, 3, H, W), any N.
        threads
            Threads to use.

        Returns
        -------
        float32 logits of shape (N, classes).

        Raises
        ------
        UserInputError
            If the shape is wrong or a value is not finite.
        DeviceError
            If the code cannot be run here, or fails.
        """
        inputs = self._check_inputs(x)
        if is_on_board(self.manifest.target):
            with self._board_program() as program:
                return program.run(inputs, threads=threads)
        if not self.is_native:
            return self.executable.run(inputs, threads=threads)
        self.library.set_threads(threads)
        return self.library.run(inputs)

    def time(
        self, x: ArrayLike, repeats: int = 50, threads: int = 1, *, warmup: int = 3
    ) -> NDArray[np.float64]:
        """Time runs on one input, here or on a board; nothing of Python is inside the times.

        A board or an engine runs on noise instead of `x`: the time does not depend on the values.

        Returns
        -------
        Milliseconds of each run, of shape (repeats,).

        Raises
        ------
        DeviceUnavailableError
            If this machine cannot run the code itself: an emulator's times mean nothing.
        """
        if repeats < 1 or warmup < 0:
            msg = f"repeats must be at least 1 and warmup 0, got {repeats} and {warmup}"
            raise UserInputError(msg)
        inputs = self._check_inputs(x)
        if is_on_board(self.manifest.target):
            with self._board_program() as program:
                return program.time(repeats=repeats, warmup=warmup, threads=threads)
        if self.manifest.platform.is_hosted:
            return self.executable.time(repeats=repeats, warmup=warmup, threads=threads)
        return self.library.time(inputs, repeats=repeats, warmup=warmup, threads=threads)

    def _board_program(self) -> AbstractContextManager[BoardProgram]:
        """Take a board, which is given back at the end of the `with` block."""
        from ofa_compile.remote.program import board_program

        path = self.path / self.manifest.platform.executable
        classes = self.manifest.output_shape[1]
        return board_program(self.manifest.target, path, classes)

    def classify(
        self, images: ImageSource | Iterable[ImageSource], top: int = 5, *, threads: int = 1
    ) -> list[list[ClassProbability]]:
        """Say what images show.

        Parameters
        ----------
        images
            Paths, PIL images or uint8 arrays of shape (height, width, 3), of any size; or one.
        top
            Classes to return per image.
        threads
            Threads to use.

        Returns
        -------
        For each image its most probable classes, best first.

        Raises
        ------
        ImageError
            If an image cannot be read.
        """
        if top < 1:
            msg = f"top must be at least 1, got {top}"
            raise UserInputError(msg)
        sources = [images] if _is_single(images) else list(images)  # type: ignore[arg-type]
        inputs = [self.manifest.preprocessing.apply(source) for source in sources]  # type: ignore[arg-type]
        shape = (0, *self.manifest.input_shape[1:])
        logits = self.run(np.stack(inputs) if inputs else np.empty(shape), threads=threads)
        return [self._best(row, top) for row in softmax(logits)]

    def _best(self, probabilities: NDArray[np.float64], top: int) -> list[ClassProbability]:
        # Stable: of equal classes the one with the lower index comes first, as in the executable.
        order = np.argsort(-probabilities, kind="stable")[:top]
        labels = self.manifest.labels
        return [ClassProbability(int(i), labels[i], float(probabilities[i])) for i in order]

    def _check_inputs(self, x: ArrayLike) -> NDArray[np.float32]:
        expected = self.manifest.input_shape[1:]
        inputs = np.asarray(x)
        if inputs.ndim != 4 or inputs.shape[1:] != expected:
            shape = "x".join(map(str, expected))
            msg = f"inputs must have shape (N, {shape.replace('x', ', ')}), got {inputs.shape}"
            raise UserInputError(msg)
        if inputs.dtype.kind not in "fiu":
            msg = f"inputs must be float32, got {inputs.dtype}"
            raise UserInputError(msg)
        inputs = np.ascontiguousarray(inputs, dtype=np.float32)
        if not np.isfinite(inputs).all():
            msg = "inputs hold values that are not finite"
            raise UserInputError(msg)
        return inputs


def _is_single(images: object) -> bool:
    """Tell one image from a collection of images."""
    if isinstance(images, np.ndarray):
        return images.ndim == 3
    # A PIL image has a mode; asking so does not import PIL.
    return isinstance(images, (str, Path)) or hasattr(images, "mode")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities of shape (N, classes) in float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    powers = np.exp(values)
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def load_bundle(path: str | Path) -> Bundle:
    """Load a bundle from its folder and check every file against the manifest.

    Raises
    ------
    ArtifactError
        If the folder is no bundle, is of another schema version, or a file is missing or differs.
    """
    folder = Path(path)
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        msg = f"{folder} is not a bundle: cannot read {MANIFEST_NAME}: {reason}"
        raise ArtifactError(msg, hint="give the folder that ofa-compile wrote") from error
    manifest = Manifest.from_json(text, str(folder / MANIFEST_NAME))
    for name, record in manifest.files.items():
        _check_file(folder / name, record["sha256"])
    return Bundle(folder, manifest)


def _check_file(path: Path, sha256: str) -> None:
    try:
        found = hash_file(path)["sha256"]
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise ArtifactError(msg, hint="compile the bundle again") from error
    if found != sha256:
        msg = f"{path} was changed: its SHA-256 is {found[:12]}..., the manifest's {sha256[:12]}..."
        raise ArtifactError(msg, hint="compile the bundle again")
