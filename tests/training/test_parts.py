"""Parts of a batch, and processes that share them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ofa_compile.errors import CheckpointError, ConfigError
from ofa_compile.supernet import load_supernet
from ofa_compile.training import distributed
from ofa_compile.training.distributed import LostProcessError, Processes
from ofa_compile.training.train import TrainConfig, train_supernet


def config(image_folder: Path, recipe: Path, output: Path, **more: object) -> TrainConfig:
    return TrainConfig(
        data=image_folder,
        output=output,
        recipe=str(recipe),
        device="cpu",
        **{"image_size": 24, **more},  # type: ignore[arg-type]
    )


def log_of(output: Path) -> list[dict[str, object]]:
    """Return the records of the log, whose last line may be half written."""
    lines = (output / "log.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in x.items() if type(v) is float} for x in log_of(output)]


def test_processes_share_parts_evenly() -> None:
    assert Processes().parts(None) == ([0], 1)
    assert Processes().parts(3) == ([0, 1, 2], 3)
    assert Processes(1, 2).parts(None) == ([1], 2)
    assert Processes(1, 2).parts(4) == ([2, 3], 4)
    with pytest.raises(ConfigError, match="3 parts cannot be shared evenly by 2 processes"):
        Processes(0, 2).parts(3)


def test_lost_process_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed.dist, "all_reduce", closed)
    with pytest.raises(LostProcessError, match=r"another process .*Connection closed") as caught:
        Processes(0, 2).add([torch.ones(3)])
    assert "continues from the last checkpoint" in str(caught.value.hint)
    Processes().add([torch.ones(3)])  # alone: nothing to send


def test_parts_resume_and_do_not_mix(image_folder: Path, recipe_file: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train_supernet(config(image_folder, recipe_file, whole, parts=2))
    train_supernet(config(image_folder, recipe_file, halves, parts=2, max_steps=3))
    with pytest.raises(CheckpointError, match="written with parts 2, this run has 1"):
        train_supernet(config(image_folder, recipe_file, halves))
    train_supernet(config(image_folder, recipe_file, halves, parts=2))
    for record in (*losses(whole), *losses(halves)):
        for name in ("seconds", "images_per_s"):
            record.pop(name)
    hashes = [
        load_supernet(folder / "supernet.safetensors").weights_hash for folder in (whole, halves)
    ]
    assert hashes[0] == hashes[1]


def torchrun(arguments: list[str]) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "ofa_compile", "train", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("own_batches", [False, True])
def test_two_processes_do_what_one_does(
    image_folder: Path, recipe_file: Path, tmp_path: Path, *, own_batches: bool
) -> None:
    if own_batches:
        text = recipe_file.read_text().replace("distillation_ratio = 0.5", "own_batches = true")
        recipe_file.write_text(text)
    one, two = tmp_path / "one", tmp_path / "two"
    train_supernet(config(image_folder, recipe_file, one, image_size=None, parts=2))
    arguments = ["--data", str(image_folder), "--recipe", str(recipe_file), "--device", "cpu"]
    process = torchrun([*arguments, "--output", str(two)])
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    for first, second in zip(losses(one), losses(two), strict=True):
        for name in ("largest", "learning_rate"):
            assert second[name] == pytest.approx(first[name], rel=2e-4)
    weights = [load_supernet(folder / "supernet.safetensors").state_dict() for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=2e-2, atol=2e-3)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_resumes(
    image_folder: Path, recipe_text: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text(recipe_text.replace("epochs = 0.25", "epochs = 400.0"))
    output = tmp_path / "run"
    arguments = ["--data", str(image_folder), "--recipe", str(recipe), "--device", "cpu"]
    arguments += ["--output", str(output)]
    first = torchrun([*arguments, "--max-steps", "2"])  # ends with a checkpoint
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    process = torchrun(arguments)
    deadline = time.monotonic() + 300
    while len(log_of(output)) < 4 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "another process of this training run ended" in errors, errors
    killed = losses(output)
    again = torchrun([*arguments, "--max-steps", "4"])
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    # It went on from the checkpoint, and does again what was done beyond it.
    assert [record["step"] for record in log_of(output)] == [1, 2, 3, 4]
    for before, after in zip(killed[:4], losses(output), strict=True):
        assert after["largest"] == pytest.approx(before["largest"], rel=1e-6)
