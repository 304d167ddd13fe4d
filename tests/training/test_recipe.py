from __future__ import annotations

from pathlib import Path

import pytest

from ofa_compile.errors import ConfigError
from ofa_compile.training.recipe import list_recipes, load_recipe


def test_shipped_recipes_load() -> None:
    assert "cifar" in list_recipes()
    for name in list_recipes():
        recipe = load_recipe(name)
        assert set(recipe.phases[-1].elastic) >= {"kernel_size", "depth", "expand_ratio"}


def test_path_and_types(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert recipe.batch_size == 8
    assert [phase.name for phase in recipe.phases] == ["largest", "expand"]
    assert recipe.phases[1].resolutions == (24,)
    assert recipe.final_learning_rate == 0.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size = 8", "batch_sizes = 8", "unknown key 'batch_sizes'"),
        ("batch_size = 8", 'batch_size = "8"', "batch_size must be of type int, not '8'"),
        ("batch_size = 8", "batch_size = true", "batch_size must be of type int"),
        ("batch_size = 8", "batch_size = 1", "batch_size is 1; allowed: 2 to"),
        ("momentum = 0.9", "momentum = 1.5", "momentum is 1.5; allowed"),
        ("momentum = 0.9", "momentum = nan", "momentum is nan; allowed"),
        ('"depth", ', '"depths", ', r"phases\[1\].elastic has 'depths'"),
        (
            "resolutions = [24]",
            "resolutions = 24",
            r"phases\[0\]: resolutions must be a list of int",
        ),
        ('name = "largest"\n', "", r"phases\[0\]: key 'name' is missing"),
        ("schema_version = 1", "schema_version = 2", "schema_version is 2"),
        ("schema_version = 1", "schema_version = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, recipe_text: str, old: str, new: str, message: str
) -> None:
    assert old in recipe_text
    path = tmp_path / "bad.toml"
    path.write_text(recipe_text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert "bad.toml" in str(caught.value)


def test_no_phases(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("schema_version = 1\n")
    with pytest.raises(ConfigError, match="phases must be a list"):
        load_recipe(path)


def test_unknown_recipe_suggests() -> None:
    with pytest.raises(ConfigError, match="no recipe 'cifr'") as caught:
        load_recipe("cifr")
    assert caught.value.hint is not None
    assert "cifar" in caught.value.hint


def test_unknown_key_suggests(tmp_path: Path, recipe_text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(recipe_text.replace("epochs = 0.25", "epoch = 0.25"))
    with pytest.raises(ConfigError, match="unknown key 'epoch'") as caught:
        load_recipe(path)
    assert caught.value.hint == "Did you mean 'epochs'?"


def test_own_batches_leave_no_logits_to_learn_from(tmp_path: Path, recipe_text: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(recipe_text + "own_batches = true\n")
    with pytest.raises(ConfigError, match=r"phases\[1\] has own_batches and dist.* 0.5") as caught:
        load_recipe(path)
    assert caught.value.hint == 'Set distillation_ratio = 0.0, or teacher = "fixed".'
    path.write_text(recipe_text + 'own_batches = true\nteacher = "fixed"\n')
    assert load_recipe(path).phases[1].own_batches
