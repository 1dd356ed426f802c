"""Find the data of a recipe: below the data folder, or one or two folders further down, and say what to download where it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from autopoly.errors import DataError
from autopoly.recipes import Recipe

VARIABLE = "AUTOPOLY_DATA"
FOLDERS = 5000
"""Folders looked at below the data folder."""


def data_folder(data: Path | None) -> Path:
    """Give the folder in which a recipe's relative paths are looked for: ``--data``, else AUTOPOLY_DATA, else the current one."""
    return data or Path(os.environ.get(VARIABLE) or ".")


def locate(recipe: Recipe, data: Path) -> Recipe:
    """Give the recipe with its paths placed: below ``data``, else below the one folder in it (or in its folders) that has all of them.

    Raise DataError, with what to download, where nothing has, or several have.
    """
    return placed(recipe, _base(recipe, data))


def placed(recipe: Recipe, base: Path) -> Recipe:
    """Give the recipe with its relative paths below ``base``; names of checkpoints stay."""
    train, convert, score = recipe.train, recipe.convert, recipe.score
    if train is not None:
        sources = tuple((base / path, weight) for path, weight in train.train)
        train = replace(train, train=sources, val=tuple(base / path for path in train.val))
    if convert is not None:
        convert = replace(convert, source=base / convert.source, images=convert.images and base / convert.images)
    if score is not None:
        score = replace(score, predictions=tuple(base / path for path in score.predictions), truth=score.truth and base / score.truth)
    return replace(recipe, train=train, convert=convert, score=score)


def paths(recipe: Recipe) -> list[Path]:
    """List every path a recipe reads, as it has them."""
    found: list[Path | None] = []
    if recipe.train is not None:
        found += [*(path for path, _ in recipe.train.train), *recipe.train.val]
    if recipe.convert is not None:
        found += [recipe.convert.source, recipe.convert.images]
    if recipe.score is not None:
        found += [*recipe.score.predictions, recipe.score.truth]
    return [path for path in found if path is not None]


def _base(recipe: Recipe, data: Path) -> Path:
    reads = [str(path) for path in paths(recipe) if not path.is_absolute()]
    if not reads:  # a resolved recipe, or one of somebody's own with whole paths
        return data
    # What the recipe says it needs tells more than its paths, and comes first.
    wanted = list(dict.fromkeys([*recipe.data.needs, *reads]))
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give --data the folder that holds {_listed(wanted)}{_get(recipe)}")
    if not _missing(data, wanted):
        return data
    found = [folder for folder in _folders(data) if not _missing(folder, wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{data}: {_listed(wanted)} is in {' and in '.join(str(one) for one in found[:3])}; give --data one of them")
    lacks = [one for one in recipe.data.needs if one in _missing(data, wanted)] or _missing(data, wanted)
    raise DataError(f"{data}: no {_listed(lacks)} in it or in its folders; give --data the folder that has it{_get(recipe)}")


def _missing(base: Path, wanted: list[str]) -> list[str]:
    return [one for one in wanted if not _is_there(base, one)]


def _is_there(base: Path, wanted: str) -> bool:
    try:
        return (base / wanted).exists() or next(base.glob(wanted), None) is not None
    except (OSError, ValueError, NotImplementedError):  # neither a name a file can have, nor a pattern that starts here
        return False


def _folders(data: Path) -> Iterator[Path]:
    """Give the folders in ``data``, then those in them, in order of name."""
    level, left = [data], FOLDERS
    for _ in range(2):
        below: list[Path] = []
        for folder in level:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        break
                    if entry.is_dir() and not entry.name.startswith("."):
                        below.append(Path(entry.path))
        yield from sorted(below)
        level = sorted(below)


def _get(recipe: Recipe) -> str:
    return f"; {recipe.data.name}: {recipe.data.get}" if recipe.data.get else ""


def _listed(names: list[str]) -> str:
    return " and ".join(names) or "the data"
