"""Recipes that inherit: what is merged, what is refused, and what a run keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from outmask.errors import OutmaskError
from outmask.training.inheritance import BUNDLED, bundled_recipes, read_settings, write_settings
from outmask.training.run import main, read_recipe

Settings = dict[str, Any]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(path: str, text: str) -> str:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    return write


def test_mappings_are_merged_at_any_depth_and_all_else_is_replaced(write: Any) -> None:
    write("base.yaml", "{model: {dim: 1, swin: {depths: [1, 2, 3], heads: 4}}, train: [{name: a}, {name: b}], seed: 1}")
    recipe = write("recipe.yaml", "{inherit: base.yaml, model: {swin: {depths: [9]}}, train: [{name: c}]}")
    expected = {"model": {"dim": 1, "swin": {"depths": [9], "heads": 4}}, "train": [{"name": "c"}], "seed": 1}
    assert read_settings(recipe) == expected


def test_null_takes_back_and_a_mapping_takes_the_place_of_null(write: Any) -> None:
    write("base.yaml", "{negatives: {probability: 1}, loss: null}")
    recipe = write("recipe.yaml", "{inherit: base.yaml, negatives: null, loss: {points: 2}}")
    assert read_settings(recipe) == {"negatives": None, "loss": {"points": 2}}


def test_of_several_the_later_one_wins_and_the_recipe_wins_over_all(write: Any) -> None:
    write("one.yaml", "{a: 1, b: 1, c: 1}")
    write("two.yaml", "{b: 2, c: 2}")
    assert read_settings(write("recipe.yaml", "{inherit: [one.yaml, two.yaml], c: 3}")) == {"a": 1, "b": 2, "c": 3}


def test_paths_are_relative_to_the_file_that_names_them(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shared/data/a.yaml", "{a: 1}")
    write("shared/b.yaml", "{inherit: data/a.yaml, b: 2}")
    recipe = write("mine/recipe.yaml", "{inherit: ../shared/b.yaml}")
    monkeypatch.chdir("/")
    assert read_settings(recipe) == {"a": 1, "b": 2}


def test_one_file_may_be_inherited_on_two_ways(write: Any) -> None:
    write("base.yaml", "{a: 1, b: 1}")
    write("one.yaml", "{inherit: base.yaml, a: 2}")
    write("two.yaml", "{inherit: base.yaml}")
    # The second one brings the common ancestor's value again: order is all that counts.
    assert read_settings(write("recipe.yaml", "{inherit: [one.yaml, two.yaml]}")) == {"a": 1, "b": 1}


trees = st.recursive(
    st.integers() | st.none() | st.lists(st.integers(), max_size=2),
    lambda values: st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def leaves(tree: Any, path: str = "") -> Settings:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name, part in tree.items() for key, value in leaves(part, f"{path}/{name}").items()}


@given(parent=mappings, child=mappings)
def test_every_leaf_of_the_recipe_is_there_and_of_the_rest_what_it_does_not_cover(
    parent: Settings, child: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "parent.yaml").write_text(yaml.safe_dump(parent))
    (folder / "child.yaml").write_text(yaml.safe_dump({**child, "inherit": "parent.yaml"}))
    own = leaves(child)

    def covered(path: str) -> bool:
        return any(f"{path}/".startswith(f"{mine}/") or f"{mine}/".startswith(f"{path}/") for mine in own)

    kept = {path: value for path, value in leaves(parent).items() if not covered(path)}
    assert leaves(read_settings(str(folder / "child.yaml"))) == kept | own


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.1e-3", "1.e-4", "+.1e-3", "0.0001"])
def test_numbers_are_those_of_yaml_1_2(write: Any, text: str) -> None:
    assert read_settings(write("recipe.yaml", f"rate: {text}")) == {"rate": 0.0001}


def test_what_only_looks_like_a_number_is_text(write: Any) -> None:
    settings = {"a": "1e", "b": "e5", "c": "1e-4", "d": "1e5x", "e": 1e-4, "f": "1_000", "g": float("inf")}
    assert read_settings(write("recipe.yaml", "{a: 1e, b: e5, c: '1e-4', d: 1e5x}")) == dict([*settings.items()][:4])
    assert read_settings(write("written.yaml", write_settings(settings))) == settings
    recipe = read_recipe(
        write("recipe.yaml", "{inherit: street, licence: '1e-4', gradient_clip: .inf, learning_rate: 1e-4}")
    )
    assert (recipe.licence, recipe.gradient_clip, recipe.learning_rate) == ("1e-4", float("inf"), 1e-4)


# ------------------------------------------------------------------------------------------------ names


def test_a_bundled_recipe_goes_by_its_name_unless_there_is_such_a_file(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings("street") == read_settings(str(BUNDLED / "street.yaml"))
    assert read_settings(write("recipe.yaml", "{inherit: m2f_eam/resnet50, seed: 7}")) == {
        **read_settings("m2f_eam/resnet50"),
        "seed": 7,
    }
    write("street", "{taxonomy: mine}")
    assert read_settings("street") == {"taxonomy": "mine"}


def test_parts_of_recipes_have_no_name() -> None:
    names = bundled_recipes()
    assert {"street", "m2f_eam/swin_large", "mask2anomaly/contrastive"} <= {*names}
    assert names == sorted(names)
    assert not [name for name in names if name.startswith("shared")]


def test_settings_may_be_given_themselves(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("base.yaml", "{a: 1}")
    monkeypatch.chdir(tmp_path)
    assert read_settings("{inherit: base.yaml, b: 2}") == {"a": 1, "b": 2}


def test_listing_the_recipes_needs_no_torch() -> None:
    code = "import sys; from outmask.app.cli import main; main(['list', 'recipes']); print('torch' in sys.modules)"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "False"
    listed = dict(line.split(maxsplit=1) for line in lines[:-1])
    assert list(listed) == bundled_recipes()
    assert listed["m2f_eam/convnext_large"] == "M2F-EAM table 6: ConvNeXt-L M2F-EAM"
    assert listed["street"] == "the bundled model street"


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"r.yaml": "{inherit: r.yaml}"}, r"r.yaml inherits itself: r.yaml -> r.yaml"),
        (
            {"r.yaml": "{inherit: a.yaml}", "a.yaml": "{inherit: [b.yaml]}", "b.yaml": "{inherit: sub/../r.yaml}"},
            r"r.yaml inherits itself: r.yaml -> a.yaml -> b.yaml -> r.yaml",
        ),
        ({"r.yaml": "{inherit: no.yaml}"}, r"r.yaml inherits no.yaml, which is neither a file in .* nor a bundled"),
        ({"r.yaml": "{inherit: sub}"}, r"r.yaml inherits sub, which is neither"),
        ({"r.yaml": "{inherit: a.yaml}", "a.yaml": "{inherit: no.yaml}"}, r"a.yaml inherits no.yaml, which"),
        ({"r.yaml": "{inherit: 3}"}, r"r.yaml: inherit must be a file or a list of files, got \[?3"),
        ({"r.yaml": "{inherit: [a.yaml, {b: c}]}"}, r"r.yaml: inherit must be a file or a list of files"),
        ({"r.yaml": "{inherit: null}"}, r"r.yaml: inherit must be a file or a list of files, got None"),
        ({"r.yaml": "{inherit: a.yaml}", "a.yaml": ""}, r"a.yaml: a recipe is a YAML mapping .* got an empty file"),
        ({"r.yaml": "- 1"}, r"r.yaml: a recipe is a YAML mapping of settings, got a list"),
        ({"r.yaml": "{inherit: a.yaml}", "a.yaml": "b: 1\nc: [2\n"}, r"a.yaml: no YAML \(.* in line 3\)"),
        ({"r.yaml": "a: \x00"}, r"r.yaml: no YAML"),
        ({}, r"no recipe '.*r.yaml': give a YAML file, or a name that outmask list recipes prints"),
    ],
)
def test_what_can_not_be_inherited_is_refused_in_one_line_that_names_the_file(
    write: Any, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in files.items():
        write(name, text)
    with pytest.raises(OutmaskError, match=message) as caught:
        read_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{inherit: street, trian: 3}", r"^\S*recipe.yaml: .*trian"),
        ("{inherit: street, iterations: ten}", r"^\S*recipe.yaml: .*iterations.* Got value: ten"),
        ("{inherit: street, loss: {outlier: {kind: no_such_loss}}}", r"^\S*recipe.yaml: .*no_such_loss"),
        ("{inherit: street, train: [{name: camvid}]}", r"^\S*recipe.yaml: .*root"),
    ],
)
def test_bad_settings_are_refused_in_the_name_of_the_recipe(write: Any, text: str, message: str) -> None:
    with pytest.raises(OutmaskError, match=message) as caught:
        read_recipe(write("recipe.yaml", text))
    assert "\n" not in str(caught.value)


def test_bad_options_beside_a_good_recipe_are_not_its_fault(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="iterations") as caught:
        main(["--config", "street", "--out", str(tmp_path / "out"), "--iterations", "ten"])
    assert "street" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ runs


def test_a_run_keeps_the_whole_recipe_and_goes_on_however_it_is_written(
    write: Any, write_recipe: Any, tmp_path: Path
) -> None:
    whole = str(write_recipe(iterations=2, model={"backbone": "mobilenet_v2"}))
    settings = yaml.safe_load(Path(whole).read_text())
    write("half.yaml", yaml.safe_dump({**settings, "iterations": 7}))
    heir = write("heir.yaml", "{inherit: half.yaml, iterations: 1, reproduces: nothing}")
    out = tmp_path / "out"
    small = ["--model", yaml.safe_dump(SMALL, default_flow_style=True, width=1000).strip()]
    main(["--config", heir, "--out", str(out), *small])
    kept = yaml.safe_load((out / "recipe.yaml").read_text())
    assert "inherit" not in kept
    assert (kept["taxonomy"], kept["iterations"], kept["model"]) == (settings["taxonomy"], 1, SMALL)
    main(["--config", whole, "--out", str(out), *small, "--iterations", "1", "--resume"])
    with pytest.raises(OutmaskError, match="iterations differ"):
        main(["--config", whole, "--out", str(out), *small, "--resume"])


SMALL = {
    "backbone": "mobilenet_v2",
    "dim": 32,
    "num_heads": 2,
    "encoder_layers": 1,
    "encoder_levels": 1,
    "encoder_ffn_dim": 32,
    "num_queries": 5,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
}
