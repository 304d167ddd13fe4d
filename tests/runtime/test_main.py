from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from stub_build import Program, build_program, write_ppm

INPUT_SIZE = 3 * 8 * 8


def raw_file(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(values.astype("<f4").tobytes())
    return path


@pytest.fixture
def image(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_ppm(tmp_path / "photo.ppm", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))


def test_is_static(program: Program) -> None:
    done = subprocess.run(["file", "-b", str(program.path)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no file(1)")
    assert b"statically linked" in done.stdout


def test_raw_tensors_pass_through(
    tmp_path: Path, program: Program, rng: np.random.Generator
) -> None:
    tensors = rng.standard_normal((5, INPUT_SIZE)).astype(np.float32)
    actual = program.logits("--raw", raw_file(tmp_path / "in.f32", tensors))
    np.testing.assert_array_equal(actual.reshape(5, -1), tensors)


@pytest.fixture(scope="module")
def batch_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("batch")
    return build_program(folder, defines=("-DSTUB_BATCH=3", "-DSTUB_CLASSES=4"))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_partial_batches_are_filled_up(
    tmp_path: Path, batch_program: Program, rng: np.random.Generator, count: int
) -> None:
    tensors = rng.standard_normal((count, INPUT_SIZE)).astype(np.float32)
    path = raw_file(tmp_path / "in.f32", tensors)
    actual = batch_program.logits("--raw", path)
    np.testing.assert_array_equal(actual.reshape(count, 4), tensors[:, :4])
    done = batch_program.run("--raw", path, "--json")
    assert len(json.loads(done.stdout)["results"]) == count


def test_probabilities_are_softmax(tmp_path: Path, batch_program: Program) -> None:
    logits = np.array([1.0, 3.0, 3.0, -200.0], dtype=np.float32)
    tensor = np.zeros(INPUT_SIZE, dtype=np.float32)
    tensor[:4] = logits
    path = raw_file(tmp_path / "in.f32", tensor)
    done = batch_program.run("--raw", path, "--json", "--top", 9)
    classes = json.loads(done.stdout)["results"][0]["classes"]
    expected = np.exp(logits - 3) / np.exp(logits - 3).sum()
    assert [c["index"] for c in classes] == [1, 2, 0, 3]
    assert [c["label"] for c in classes] == ["dog", "", "cat", ""]
    np.testing.assert_allclose(
        [c["probability"] for c in classes], expected[[1, 2, 0, 3]], atol=1e-6
    )
    table = batch_program.run("--raw", path, "--top", 2).stdout.decode()
    assert table.splitlines() == [f"{path}, tensor 1", "   46.83 %  dog", "   46.83 %  class 2"]


def test_large_logits_do_not_overflow(tmp_path: Path, batch_program: Program) -> None:
    tensor = np.zeros(INPUT_SIZE, dtype=np.float32)
    tensor[0] = 3e38
    done = batch_program.run("--raw", raw_file(tmp_path / "in.f32", tensor), "--json")
    assert json.loads(done.stdout)["results"][0]["classes"][0]["probability"] == 1.0


def test_several_images_and_standard_input(program: Program, image: Path) -> None:
    done = program.run(image, "-", "--top", "1", "--json", input=image.read_bytes())
    results = json.loads(done.stdout)["results"]
    assert [r["input"] for r in results] == [str(image), "-"]
    assert results[0]["classes"] == results[1]["classes"]


def test_strange_names_give_valid_json(tmp_path: Path, program: Program, image: Path) -> None:
    name = os.fsencode(tmp_path) + b'/q"\\\n\xc3\xa9\xff\xed\xa0\x80.ppm'
    Path(os.fsdecode(name)).write_bytes(image.read_bytes())
    done = program.run(os.fsdecode(name), "--json")
    (result,) = json.loads(done.stdout)["results"]
    assert result["input"] == f'{tmp_path}/q"\\\né\ufffd\ufffd\ufffd\ufffd.ppm'


def test_strange_labels_survive(tmp_path: Path, image: Path) -> None:
    labels = ('say "hi"', "back\\slash 0", "caf\N{LATIN SMALL LETTER E WITH ACUTE} ??=", "日本\n1")
    program = build_program(tmp_path, labels=labels)
    done = program.run(image, "--json", "--top", 1000)
    found = {c["index"]: c["label"] for c in json.loads(done.stdout)["results"][0]["classes"]}
    assert [found[i] for i in range(5)] == [*labels, ""]


@pytest.mark.parametrize("labels", [(), tuple(f"class number {i}" for i in range(2000))])
def test_any_number_of_labels_compiles(tmp_path: Path, labels: tuple[str, ...]) -> None:
    assert build_program(tmp_path, labels=labels).run("--info").returncode == 0


def test_writes_the_time_of_each_run(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "times"
    done = program.run("--benchmark", 5, "--times", path, "--json")
    figures = json.loads(done.stdout)["benchmark"]
    times = np.fromfile(path, dtype="<f8")
    assert times.shape == (5,)
    assert figures["min_ms"] == pytest.approx(times.min(), abs=1e-6)
    assert figures["median_ms"] == pytest.approx(np.median(times), abs=1e-6)
    done = program.run("--benchmark", 5, "--times", tmp_path / "none" / "times")
    assert (done.returncode, b"No such file" in done.stderr) == (2, True)
    done = program.run("--info", "--times", path)
    assert (done.returncode, b"only --benchmark has times" in done.stderr) == (2, True)


def test_info(program: Program) -> None:
    assert json.loads(program.run("--info", "--json").stdout) == {
        "version": 'stub "network"',
        "input_shape": [1, 3, 8, 8],
        "output_shape": [1, 192],
        "arena_bytes": 768,
    }
    assert b"1 x 3 x 8 x 8 float32" in program.run("--info").stdout


@pytest.mark.parametrize(
    "arguments", [("--benchmark",), ("--benchmark", "7"), ("--benchmark", "8")]
)
def test_benchmark(program: Program, arguments: tuple[str, ...]) -> None:
    done = program.run(*arguments, "--json", "--threads", "2", "--warmup=0")
    result = json.loads(done.stdout)["benchmark"]
    assert result["repeats"] == int([*arguments, "100"][1])
    assert result["threads"] == 2
    assert 0 <= result["min_ms"] <= result["median_ms"] <= result["p95_ms"]
    assert result["batch"] == 1
    assert result["images_per_s"] == pytest.approx(1e3 / result["median_ms"], rel=0.1)
    table = program.run(*arguments).stdout.decode()
    assert table.startswith("min ")
    assert "median" in table
    assert "p95" in table
    assert "images/s" in table


def test_images_info_and_benchmark_make_one_document(program: Program, image: Path) -> None:
    done = program.run(image, "--benchmark", "--info", "--json")
    assert {"version", "results", "benchmark"} <= set(json.loads(done.stdout))


def test_help_names_every_option(program: Program) -> None:
    done = program.run("--help")
    assert done.returncode == 0
    for option in ("raw", "top", "json", "logits", "threads", "benchmark", "warmup", "info"):
        assert f"--{option}".encode() in done.stdout


BAD_USAGE = {
    "no image given": (),
    "unknown option": ("--nonsense",),
    "--top: wants a number from 1": ("--top", "0", "x.ppm"),
    "--top: wants a number": ("--top", "-1", "x.ppm"),
    "--top: wants": ("--top",),
    "--threads: wants a number from 1 to 1024": ("--threads=1025", "x.ppm"),
    "--threads: wants a number": ("--threads", "99999999999999999999", "x.ppm"),
    "--raw: wants a file name": ("--raw",),
    "--logits: wants a file name": ("--logits=", "x.ppm"),
    "--logits: no image": ("--logits", "out", "--info"),
    "images and --raw exclude": ("--raw", "a", "b.ppm"),
    "--benchmark: wants a number from 1": ("--benchmark", "0"),
    "missing.ppm: No such file": ("missing.ppm",),
    "--top: No such file": ("--", "--top"),
    "missing.f32: No such file": ("--raw", "missing.f32"),
    "Is a directory": ("--raw", "/"),
    "cannot run the network: threads cannot be started": ("--threads", "1001", "--info"),
}


@pytest.mark.parametrize("message", BAD_USAGE)
def test_bad_usage_is_a_clear_error(program: Program, message: str) -> None:
    done = program.run(*BAD_USAGE[message])
    assert message.encode() in done.stderr
    assert done.returncode == (1 if message.startswith("cannot run") else 2)
    assert done.stdout == b""


@pytest.mark.parametrize("size", [0, 1, INPUT_SIZE * 4 - 1, INPUT_SIZE * 4 + 4])
def test_wrong_raw_length_is_a_clear_error(tmp_path: Path, program: Program, size: int) -> None:
    path = tmp_path / "in.f32"
    path.write_bytes(bytes(size))
    done = program.run("--raw", path)
    assert done.returncode == 2
    message = f"has {size % (INPUT_SIZE * 4)} bytes, the input of shape 3x8x8 takes 768"
    assert message.encode() in done.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(
    tmp_path: Path, program: Program, value: float
) -> None:
    tensor = np.zeros((2, INPUT_SIZE))
    tensor[1, 100] = value
    done = program.run("--raw", raw_file(tmp_path / "in.f32", tensor))
    assert done.returncode == 2
    assert b"tensor 2 holds a value that is not finite" in done.stderr


def test_logits_that_are_not_finite_fail_but_are_written(tmp_path: Path, image: Path) -> None:
    program = build_program(tmp_path, defines=("-DSTUB_NAN",))
    done = program.run(image, "--logits", tmp_path / "out")
    assert done.returncode == 3
    assert b"a logit is not finite" in done.stderr
    assert np.isnan(np.fromfile(tmp_path / "out", dtype="<f4")[1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/nowhere/out", "No such file"),
        ("/", "Is a directory"),
        ("/dev/full", "cannot be written"),
    ],
)
def test_unwritable_logits_are_a_clear_error(
    program: Program, image: Path, target: str, message: str
) -> None:
    done = program.run(image, "--logits", target)
    assert done.returncode == 2
    assert message.encode() in done.stderr


def test_full_standard_output_is_an_error(program: Program, image: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*program.run("--help").args[:-1], str(image)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert b"standard output" in done.stderr


def test_sanitizers_find_nothing(tmp_path: Path, image: Path, rng: np.random.Generator) -> None:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    program = build_program(tmp_path, flags=flags)
    raw = raw_file(tmp_path / "in.f32", rng.standard_normal((3, INPUT_SIZE)))
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(image.read_bytes()[:-5])
    for arguments, code in [
        ((image, image, "--json", "--benchmark", "5"), 0),
        (("--raw", raw, "--logits", tmp_path / "out"), 0),
        (("--raw", raw, "--top", 1000), 0),
        ((cut,), 2),
        (("--top",), 2),
        ((tmp_path / "absent",), 2),
    ]:
        done = program.run(*arguments)
        assert done.returncode == code, done.stderr
        assert b"Sanitizer" not in done.stderr
