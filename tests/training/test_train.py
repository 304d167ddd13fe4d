from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ofa_compile.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from ofa_compile.space import search_space
from ofa_compile.supernet import load_supernet
from ofa_compile.training.recipe import Recipe, load_recipe
from ofa_compile.training.train import (
    DivergedError,
    TrainConfig,
    learning_rate,
    make_optimizer,
    train_supernet,
)


def config(image_folder: Path, recipe: Path, output: Path, **more: object) -> TrainConfig:
    return TrainConfig(
        data=image_folder,
        output=output,
        recipe=str(recipe),
        image_size=24,
        **more,  # type: ignore[arg-type]
    )


def losses(output: Path) -> list[dict[str, object]]:
    lines = (output / "log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(x).items() if k not in ("seconds", "images_per_s")}
        for x in lines
    ]


def test_schedule() -> None:
    recipe = load_recipe("cifar")
    rates = [learning_rate(recipe, step, 10000) for step in range(10000)]
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] == pytest.approx(recipe.final_learning_rate, rel=0.01)
    assert rates[recipe.warmup_steps :] == sorted(rates[recipe.warmup_steps :], reverse=True)


def test_norms_biases_and_transforms_do_not_decay() -> None:
    supernet = load_supernet(None, space="ofa_mbv3_cifar")
    names = {id(p): n for n, p in supernet.named_parameters()}
    groups = make_optimizer(supernet, load_recipe("cifar")).param_groups
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in groups)
    assert not [n for n in decayed if "bn." in n or n.endswith(("bias", "_matrix"))]
    assert all("bn." in n or n.endswith(("bias", "_matrix")) for n in kept)
    assert len(decayed) + len(kept) == len(names)


def test_run_trains_writes_and_starts_from_its_result(
    image_folder: Path, recipe_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    seen: list[tuple[int, int]] = []
    result = train_supernet(
        config(image_folder, recipe_file, output),
        progress=lambda step, total, _: seen.append((step, total)),
    )
    assert result.total_steps == result.step == 4
    assert seen == [(8, 32), (16, 32), (24, 32), (32, 32)]
    records = losses(output)
    assert [r["phase"] for r in records] == ["largest", "largest", "expand", "expand"]
    assert set(records[-1]) >= {"largest", "smallest", "random", "learning_rate"}
    assert result.weights is not None
    supernet = load_supernet(result.weights)
    assert supernet.space.name == "ofa_mbv3_cifar"
    assert supernet.metadata["labels"] == ["blue", "green", "red"]
    assert len(supernet.metadata["mean"]) == 3
    again = train_supernet(
        config(image_folder, recipe_file, tmp_path / "more", init=str(result.weights), max_steps=1)
    )
    assert again.weights is None
    fresh = torch.load(result.checkpoint, weights_only=True)["supernet"]
    more = torch.load(again.checkpoint, weights_only=True)["supernet"]
    name = "classifier.linear.weight"
    assert float((fresh[name] - more[name]).abs().max()) < 0.1


@pytest.mark.slow
def test_killed_run_repeats_the_same_losses(
    image_folder: Path, recipe_file: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_supernet(config(image_folder, recipe_file, whole))
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from ofa_compile.training.train import TrainConfig, train_supernet\n"
        "a = sys.argv\n"
        "c = TrainConfig(data=Path(a[1]), recipe=a[2], output=Path(a[3]), image_size=24,"
        " checkpoint_every_s=0.0)\n"
        "train_supernet(c)\n"
    )
    command = [sys.executable, "-c", code, str(image_folder), str(recipe_file), str(killed)]
    with subprocess.Popen(command) as process:
        checkpoint = killed / "checkpoint.pt"
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 1 <= step < 4
    # What a kill in the middle of a line leaves.
    with (killed / "log.jsonl").open("a") as stream:
        stream.write('{"step": ')
    train_supernet(config(image_folder, recipe_file, killed))
    assert losses(killed) == losses(whole)


def test_stopped_run_continues_with_the_same_losses(
    image_folder: Path, recipe_file: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_supernet(config(image_folder, recipe_file, whole))
    for steps in (1, 3, None):
        train_supernet(config(image_folder, recipe_file, parts, max_steps=steps))
    assert losses(parts) == losses(whole)
    weights = [load_supernet(folder / "supernet.safetensors") for folder in (whole, parts)]
    assert weights[0].weights_hash == weights[1].weights_hash


def test_subnets_with_batches_of_their_own(
    image_folder: Path, recipe_text: str, tmp_path: Path
) -> None:
    text = recipe_text.replace("distillation_ratio = 0.5", "distillation_ratio = 0.0")
    text = text.replace("epochs = 0.25", "epochs = 0.01")  # one step, then elastic ones
    logs = {}
    for name, more in {"same": "", "own": "own_batches = true\n"}.items():
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(text + more)
        train_supernet(config(image_folder, recipe, tmp_path / name))
        logs[name] = losses(tmp_path / name)
    # The largest network sees what it saw; up to the first elastic step all is the same.
    assert logs["own"][0] == logs["same"][0]
    assert logs["own"][1]["largest"] == logs["same"][1]["largest"]
    assert logs["own"][1]["smallest"] != logs["same"][1]["smallest"]
    assert logs["own"][1]["random"] != logs["same"][1]["random"]
    parts = tmp_path / "parts"
    for steps in (2, None):
        train_supernet(config(image_folder, tmp_path / "own.toml", parts, max_steps=steps))
    assert losses(parts) == logs["own"]


def test_nan_loss_names_step_rate_and_architecture(
    image_folder: Path, recipe_text: str, tmp_path: Path
) -> None:
    path = tmp_path / "wild.toml"
    text = recipe_text.replace("learning_rate = 0.02", "learning_rate = 100.0")
    path.write_text(text.replace("max_gradient_norm = 4.0", "max_gradient_norm = 1e38"))
    first = train_supernet(config(image_folder, path, tmp_path / "run", max_steps=1))
    state = torch.load(first.checkpoint, weights_only=True)
    state["supernet"]["classifier.linear.weight"].fill_(float("nan"))
    torch.save(state, first.checkpoint)
    message = (
        r"loss is nan at step 1, learning rate 100.*architecture .*\"space\":\"ofa_mbv3_cifar\""
    )
    with pytest.raises(DivergedError, match=message):
        train_supernet(config(image_folder, path, tmp_path / "run"))


def test_checkpoints_of_other_runs_are_refused(
    image_folder: Path, recipe_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = train_supernet(config(image_folder, recipe_file, output, max_steps=1))
    with pytest.raises(CheckpointError, match="written with seed 0, this run has 7"):
        train_supernet(config(image_folder, recipe_file, output, seed=7))
    content = result.checkpoint.read_bytes()
    result.checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot read the training checkpoint"):
        train_supernet(config(image_folder, recipe_file, output))
    torch.save([1, 2], result.checkpoint)
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        train_supernet(config(image_folder, recipe_file, output))


def test_bad_settings(image_folder: Path, recipe_text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text.replace("held_out = 12", "held_out = 60"))
    with pytest.raises(DataError, match="only 0 training images are left of 60"):
        train_supernet(config(image_folder, path, tmp_path / "a"))
    path.write_text(recipe_text.replace("resolutions = [24]", "resolutions = [20]", 1))
    with pytest.raises(ConfigError, match="no resolution 20"):
        train_supernet(config(image_folder, path, tmp_path / "b"))
    with pytest.raises(DataError, match="does not exist"):
        train_supernet(config(tmp_path / "nowhere", path, tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_recipe_defaults_are_usable() -> None:
    phases = load_recipe("cifar").phases
    assert learning_rate(Recipe(phases=phases), 0, 10) == pytest.approx(0.05)


def test_space_of_the_recipe_exists() -> None:
    resolutions = set(search_space("ofa_mbv3_cifar").resolutions)
    for phase in load_recipe("cifar").phases:
        assert set(phase.resolutions) <= resolutions


PAPER_LIKE = """
schema_version = 1
batch_size = 8
held_out = 12
momentum = 0.9
dropout = 0.1
precision = "bfloat16"
augmentation = "resized-crop"
ema_decay = 0.5
[[phases]]
name = "largest"
epochs = 0.17
learning_rate = 0.02
resolutions = [24]
[[phases]]
name = "expand-1"
epochs = 0.34
learning_rate = 0.01
warmup_epochs = 0.17
resolutions = [24]
elastic = ["kernel_size", "depth", "expand_ratio"]
expand_ratio_choices = 2
sampling = "random"
random_subnets = 2
teacher = "fixed"
distillation_ratio = 1.0
sort_channels = true
"""


def test_fixed_teacher_average_and_mixed_precision(image_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "paper.toml"
    recipe.write_text(PAPER_LIKE)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train_supernet(config(image_folder, recipe, whole))
    assert result.step == 3
    assert [sorted(set(r) & {"largest", "random", "random_1"}) for r in losses(whole)] == [
        ["largest"],
        ["random", "random_1"],
        ["random", "random_1"],
    ]
    assert [r["learning_rate"] for r in losses(whole)] == [0.02, 0.01, 0.01]
    # The teacher is the largest network as it was when shrinking began, and stays so.
    teacher = load_supernet(whole / "teacher.safetensors")
    for steps in (2, None):
        train_supernet(config(image_folder, recipe, parts, max_steps=steps))
    assert load_supernet(parts / "teacher.safetensors").weights_hash == teacher.weights_hash
    assert losses(parts) == losses(whole)
    hashes = [load_supernet(f / "supernet.safetensors").weights_hash for f in (whole, parts)]
    assert hashes[0] == hashes[1]
    state = torch.load(result.checkpoint, weights_only=True)
    name = "classifier.linear.weight"
    saved = load_supernet(whole / "supernet.safetensors").state_dict()[name]
    torch.testing.assert_close(saved, state["average"][name])
    assert not torch.equal(saved, state["supernet"][name])


def test_tensorboard_is_asked_for_by_name(
    image_folder: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="needs the package tensorboard"):
        train_supernet(config(image_folder, recipe_file, tmp_path / "a", tensorboard=True))
