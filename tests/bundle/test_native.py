from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stub_build import build_library
from stub_bundle import CLASSES, DEFINES, stub_logits

from ofa_compile.bundle.native import NativeLibrary, pad_batch
from ofa_compile.errors import ArtifactError, DeviceError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("native"), "ofa_n_", defines=DEFINES)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_runs_any_number_of_inputs(path: Path, count: int) -> None:
    with NativeLibrary(path, "ofa_n_") as library:
        x = noise(count)
        np.testing.assert_array_equal(library.run(x), stub_logits(x))
        assert library.input_shape == (1, 3, 8, 8)
        assert library.output_shape == (1, CLASSES)
        assert library.arena_bytes == 768
        assert "stub" in library.version


@pytest.mark.parametrize("count", [1, 3, 4])
def test_fills_up_batches(tmp_path: Path, count: int) -> None:
    library_path = build_library(tmp_path, "ofa_b_", defines=(*DEFINES, "-DSTUB_BATCH=3"))
    with NativeLibrary(library_path, "ofa_b_") as library:
        x = noise(count)
        np.testing.assert_array_equal(library.run(x), stub_logits(x))


def test_any_memory_layout_works(path: Path) -> None:
    x = noise(4)
    with NativeLibrary(path, "ofa_n_") as library:
        expected = stub_logits(x)
        np.testing.assert_array_equal(library.run(x.astype(np.float64)), expected)
        np.testing.assert_array_equal(library.run(np.asfortranarray(x)), expected)
        shifted = np.frombuffer(b"0000" + x.tobytes(), np.float32)[1:].reshape(x.shape)
        np.testing.assert_array_equal(library.run(shifted), expected)


def test_times_each_run(path: Path) -> None:
    with NativeLibrary(path, "ofa_n_") as library:
        times = library.time(noise(1), repeats=7, threads=2)
        assert times.shape == (7,)
        assert (times >= 0).all()
        with pytest.raises(DeviceError, match="2 inputs to time"):
            library.time(noise(2), repeats=7)
        with pytest.raises(DeviceError, match="out of range"):
            library.time(noise(1), repeats=0)


def test_times_each_step(path: Path) -> None:
    with NativeLibrary(path, "ofa_n_") as library:
        times = library.time_steps(noise(1), repeats=2, threads=2)
        assert times.tolist() == [[1, 2, 3], [1, 2, 3]]
        with pytest.raises(DeviceError, match="2 inputs to time"):
            library.time_steps(noise(2), repeats=7)
        with pytest.raises(DeviceError, match="threads cannot be started"):
            library.set_threads(1001)
        assert library.run(noise(1)).shape == (1, CLASSES)


def test_replaced_file_is_loaded_anew(tmp_path: Path) -> None:
    """The dynamic linker would hand out the first library again for an equal path."""
    first = build_library(tmp_path, "ofa_r_", defines=DEFINES)
    old = NativeLibrary(first, "ofa_r_")
    other = tmp_path / "other"
    other.mkdir()
    build_library(other, "ofa_r_", defines=("-DSTUB_CLASSES=9",)).replace(first)
    new = NativeLibrary(first, "ofa_r_")
    assert (old.output_shape, new.output_shape) == ((1, CLASSES), (1, 9))
    assert old.run(noise(1)).shape == (1, CLASSES)
    old.close()
    old.close()
    assert new.run(noise(1)).shape == (1, 9)
    new.close()


def test_unloads(path: Path) -> None:
    NativeLibrary(path, "ofa_n_").close()
    maps = Path("/proc/self/maps").read_text()
    assert str(path) not in maps


def test_bad_libraries_are_clear_errors(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not export ofa_wrong_input_shape"):
        NativeLibrary(path, "ofa_wrong_")
    text = tmp_path / "libsubnet.so"
    text.write_text("no library")
    with pytest.raises(ArtifactError, match=r"cannot load .*libsubnet\.so"):
        NativeLibrary(text, "ofa_n_")
    with pytest.raises(ArtifactError, match="No such file"):
        NativeLibrary(tmp_path / "absent.so", "ofa_n_")


def test_padding() -> None:
    x = noise(5)
    assert pad_batch(x, 5) is x
    padded = pad_batch(x, 4)
    assert padded.shape == (8, 3, 8, 8)
    assert not padded[5:].any()
