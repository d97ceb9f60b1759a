"""What a recipe inherits from others, and the recipes that come with the package.

``inherit: FILE`` or a list of files, relative to the recipe's own folder, or names of bundled recipes. Settings are
merged in that order, the recipe's own last. Mappings are merged key by key, at any depth; anything else, lists too, is
replaced. ``null`` takes back what was inherited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from outmask.errors import OutmaskError

BUNDLED = Path(__file__).parents[1] / "recipes"
"""Folder of the bundled recipes; ``shared/`` there holds parts of recipes, which can't be run alone."""


class _Loader(yaml.SafeLoader):
    """Numbers may be written as in YAML 1.2 and JSON: ``1e-4`` too, which YAML 1.1 takes for a string."""


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that :class:`_Loader` would take for numbers."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as ``"m2f_eam/swin_large"``, sorted."""
    paths = (path.relative_to(BUNDLED).with_suffix("") for path in BUNDLED.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if path.parts[0] != "shared")


def read_settings(source: str) -> dict[str, Any]:
    """The settings of a recipe, together with those that it inherits.

    Args:
        source: a YAML file, the name of a bundled recipe (where no such file exists), or the settings themselves as
            YAML, which inherit relative to the working directory.

    Returns:
        plain values, without ``inherit``.

    Raises:
        OutmaskError: where there is no such recipe, a file is no YAML mapping, one that is inherited is missing, or a
            recipe inherits itself.
    """
    if (given := _settings_in(source)) is not None:
        return _inherited(given, "the recipe", Path(), ())
    path = _find(source, Path())
    if path is None:
        raise OutmaskError(f"no recipe {source!r}: give a YAML file, or a name that outmask list recipes prints")
    return _read(path, ())


def write_settings(settings: Mapping[str, Any]) -> str:
    """The settings as YAML, which :func:`read_settings` and jsonargparse read as the same."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False)


def _settings_in(source: str) -> dict[str, Any] | None:
    """The mapping that a text holds; None for a file name, which is no mapping in YAML."""
    try:
        value = yaml.load(source, _Loader)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, dict) else None


def _find(name: str, folder: Path) -> Path | None:
    places = (folder / name, BUNDLED / f"{name}.yaml")
    return next((place for place in places if place.is_file()), None)


def _read(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    """Settings of a file that the files ``heirs`` lead to, the first one first."""
    if path.resolve() in (heir.resolve() for heir in heirs):
        raise OutmaskError(f"{path} inherits itself: {' -> '.join(str(heir.name) for heir in (*heirs, path))}")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise OutmaskError(f"{path} can't be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise OutmaskError(f"{path}: no YAML ({error.problem}{line})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OutmaskError(f"{path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(settings, dict):
        given = "an empty file" if settings is None else f"a {type(settings).__name__}"
        raise OutmaskError(f"{path}: a recipe is a YAML mapping of settings, got {given}")
    return _inherited(settings, str(path), path.parent, (*heirs, path))


def _inherited(settings: dict[str, Any], name: str, folder: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    own = {key: value for key, value in settings.items() if key != "inherit"}
    parents = settings.get("inherit", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise OutmaskError(f"{name}: inherit must be a file or a list of files, got {parents!r}")
    merged: dict[str, Any] = {}
    for parent in parents:
        path = _find(parent, folder)
        if path is None:
            raise OutmaskError(f"{name} inherits {parent}, which is neither a file in {folder} nor a bundled recipe")
        merged = _merged(merged, _read(path, heirs))
    return _merged(merged, own)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**old, **new}
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            merged[key] = _merged(old[key], new[key])
    return merged
