"""Recipes: strict TOML files that say what to train, convert and score, and which published numbers to print beside the result.

Tables: ``[data]`` (what the recipe needs and where to get it), ``[train]``, ``[convert]`` and ``[score]``, which run in this order, and any
number of ``[[expect]]``. The keys of ``[train]`` and ``[convert]`` are the options of the commands: their dataclasses are the only list of
them. Nothing is inherited or interpolated; ``--set table.key=value`` is the only override.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

import autopoly
from autopoly.errors import RecipeError, redacted
from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.scoring.measuring import ScoreOptions
from autopoly.jobs.train_options import TrainOptions

STEPS = ("train", "convert", "score")
HARMLESS: Mapping[str, Any] = {"source": "?", "train": [["?", 1.0]]}
MOST_RESAMPLES = 100_000
METRICS = ("miou", "map", "f_1px", "f_2px")


@dataclass(frozen=True, slots=True)
class Data:
    """What a recipe reads: ``needs`` are paths or patterns below the data folder, ``get`` says where to download them.

    With ``demo`` the photos of ``autopoly demo`` are written to ``demo/`` in the folder of the result, where the recipe's paths count from.
    """

    name: str = "data"
    needs: tuple[str, ...] = ()
    get: str = ""
    demo: bool = False


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What ``[score]`` compares: ``predictions`` with ``truth``; without them what ``[convert]`` made with the masks of its source."""

    predictions: tuple[Path, ...] = ()
    truth: Path | None = None
    options: ScoreOptions = field(default_factory=ScoreOptions)


@dataclass(frozen=True, slots=True)
class Expect:
    """A published row, in percent as printed there; ``per_category`` maps a category's name to its IoU."""

    table: str
    row: str
    miou: float | None = None
    map: float | None = None
    f_1px: float | None = None
    f_2px: float | None = None
    per_category: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as read, its relative paths as written; ``train.out`` and ``convert.out`` are placed when it runs."""

    name: str
    data: Data
    train: TrainOptions | None
    convert: ConvertOptions | None
    score: ScoreTable | None
    expect: tuple[Expect, ...]


def root() -> Path:
    """Give the folder of the shipped recipes: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(autopoly.__file__).parent
    inside = package / "_data" / "pipelines"
    return inside if inside.is_dir() else package.parent / "pipelines"


def find(recipe: str) -> Path:
    """Give the file of a recipe: a path, or the name of a shipped one such as ``paper/kitti``; raise RecipeError, with a hint."""
    shipped = {path.relative_to(root()).with_suffix("").as_posix(): path for path in sorted(root().rglob("*.toml"))}
    if Path(recipe).is_file():
        return Path(recipe)
    name = recipe.removesuffix(".toml").removeprefix("pipelines/")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped ones: {', '.join(shipped) or 'none'}"
    raise RecipeError(f"{recipe}: no such recipe; {hint}")


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe with ``settings``: ``table.key=value``, the value as in TOML or plain text. Raise RecipeError with all the faults."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    # Whatever else than TOMLDecodeError it is: integers of 5000 digits are a plain ValueError.
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a readable TOML file ({' '.join(str(error).split())})") from error
    for text in settings:
        _set(raw, text)
    faults: list[str] = []
    try:
        read = MODEL.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        faults = _said(error)
        raw = _without(raw, error)
        read = None
    tables: Mapping[str, Any] = raw if read is None else {name: _plain(getattr(read, name)) for name in MODEL.model_fields}
    faults += _out_of_range(tables)
    if not faults and not any(raw.get(name) is not None for name in STEPS):
        faults.append(f"nothing to do: add a table {', '.join(f'[{name}]' for name in STEPS)}")
    if faults:
        count = f"{len(faults)} errors: " if len(faults) > 1 else ""
        raise RecipeError(f"{path}: {count}{'; '.join(faults)}")
    return Recipe(
        path.stem,
        Data(**tables["data"]) if tables["data"] else Data(),
        None if tables["train"] is None else TrainOptions(**tables["train"], out=Path()),
        None if tables["convert"] is None else ConvertOptions(**tables["convert"], out=Path()),
        None if tables["score"] is None else _score(tables["score"]),
        tuple(Expect(**one) for one in tables["expect"]),
    )


def dump(recipe: Recipe) -> str:
    """Write a recipe as TOML with every option it has, so that reading it again gives the same one; options that are not set are left out.

    Where results go (``out``) is not part of a recipe.
    """
    score = recipe.score
    scored = None if score is None else {"predictions": score.predictions, "truth": score.truth, **_values(score.options)}
    tables: list[tuple[str, dict[str, Any] | None]] = [
        ("[data]", _values(recipe.data)),
        ("[train]", None if recipe.train is None else _values(recipe.train)),
        ("[convert]", None if recipe.convert is None else _values(recipe.convert)),
        ("[score]", scored),
        *(("[[expect]]", _values(one)) for one in recipe.expect),
    ]
    parts = [f"# {recipe.name}, resolved by autopoly {autopoly.__version__}: every option that was in force."]
    for name, values in tables:
        if values is not None:
            lines = [f"{key} = {_toml(value)}" for key, value in values.items() if key != "out" and value is not None]
            parts.append("\n".join((name, *lines)))
    return "\n\n".join(parts) + "\n"


def _model(name: str, options: type[Any], without: Iterable[str] = (), **more: Any) -> type[BaseModel]:
    """Make the strict model of a dataclass: the same fields, types and defaults, and no others."""
    hints = get_type_hints(options)
    made: dict[str, Any] = {}
    for one in fields(options):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        made[one.name] = (hints[one.name], ... if default is MISSING else default)
    kept = {key: value for key, value in (made | more).items() if key not in set(without)}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **kept)


TABLES = {
    "data": _model("data", Data),
    "train": _model("train", TrainOptions, ("out", "resume")),
    "convert": _model("convert", ConvertOptions, ("out",)),
    "score": _model("score", ScoreOptions, predictions=(tuple[Path, ...], ()), truth=(Path | None, None)),
}
EXPECT = _model("expect", Expect)
MODEL = create_model(
    "recipe",
    __config__=ConfigDict(extra="forbid"),
    **{name: (model | None, None) for name, model in TABLES.items()},  # type: ignore[call-overload]
    expect=(tuple[EXPECT, ...], ()),  # type: ignore[valid-type]
)


def _set(raw: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    table, dot, key = name.strip().partition(".")
    if not equals or not dot or table not in TABLES or not key.isidentifier():
        raise RecipeError(f"--set {text}: expected table.key=value, with a table of {', '.join(TABLES)}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, KeyError, RecursionError):
        parsed = value.strip()
    if not isinstance(raw.setdefault(table, {}), dict):
        raise RecipeError(f"--set {text}: {table} is no table in this recipe")
    raw[table][key] = parsed


def _said(error: ValidationError) -> list[str]:
    """Say each thing that is wrong once; where a value may be of several types, what each of them expects."""
    wrong: dict[str, list[str]] = {}
    for one in error.errors(include_url=False):
        table, *rest = one["loc"]
        place = f"[{table}]" if not rest else f"[[expect]] {' '.join(map(str, rest))}" if table == "expect" else f"[{table}] {rest[0]}"
        if one["type"] == "extra_forbidden":
            message = _unknown(str(table), [str(part) for part in rest])
            place = place if rest else str(table)
        elif one["type"] == "missing":
            message = "missing; it has no default"
        elif one["type"].startswith("model"):
            message = "expected a table"
        else:
            shown = "" if isinstance(one["input"], dict | list) else f", not {one['input']!r}"
            message = one["msg"].replace("Input should be", "expected", 1) + shown
        wrong.setdefault(place, []).append(message)
    return [f"{place}: {' or '.join(dict.fromkeys(messages))}" for place, messages in wrong.items()]


def _unknown(table: str, rest: list[str]) -> str:
    known: Iterable[str] = TABLES[table].model_fields if table in TABLES and rest else EXPECT.model_fields if rest else MODEL.model_fields
    near = difflib.get_close_matches(rest[-1] if rest else table, known, n=1)
    return f"unknown {'key' if rest else 'table'}; did you mean {near[0]!r}?" if near else f"unknown; known are {', '.join(known)}"


def _without(raw: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Leave out what was refused, and put something harmless where a key must be, so that the rest can be looked at too."""
    kept = {name: dict(raw[name]) if isinstance(raw.get(name), dict) else None for name in TABLES}
    for one in error.errors(include_url=False):
        table, *rest = one["loc"]
        values = kept.get(str(table))
        if values is not None and rest:
            key = str(rest[0])
            values.pop(key, None)
            if key in HARMLESS and key in TABLES[str(table)].model_fields:
                values[key] = HARMLESS[key]
    for name, values in kept.items():
        try:
            model = None if values is None else TABLES[name].model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError:
            model = None
        kept[name] = _plain(model)
    return {**kept, "expect": ()}


def _out_of_range(tables: Mapping[str, Any]) -> list[str]:
    """Ask the options themselves what they refuse, in the words of recipes; each refused value makes way for its default for the next."""
    faults: list[str] = []
    makers: dict[str, Callable[..., Any]] = {"train": TrainOptions, "convert": ConvertOptions}
    for name, make in makers.items():
        values = dict(tables[name] or {})
        while values:
            try:
                make(**values, out=Path()).check()
                break
            except RecipeError as error:
                options = [option.replace("-", "_") for option in re.findall(r"--([a-z-]+)", str(error))]
                faults.append(f"[{name}] " + re.sub(r"--([a-z-]+)", lambda found: found[1].replace("-", "_"), str(error)))
                if not options or values.pop(options[0], None) is None or options[0] in ("source", "train"):
                    break
    score = tables["score"]
    if score and not (0 <= score["min_side"] < float("inf")):
        faults.append(f"[score] min_side {score['min_side']}: expected 0 px or more")
    if score and not 0 <= score["resamples"] <= MOST_RESAMPLES:
        faults.append(f"[score] resamples {score['resamples']}: expected 0 to {MOST_RESAMPLES:,}")
    if score and score["seed"] < 0:
        faults.append(f"[score] seed {score['seed']}: expected 0 or more")
    if score and bool(score["predictions"]) != (score["truth"] is not None):
        faults.append("[score]: name both predictions and truth, or neither to score what [convert] makes")
    if score and not score["predictions"] and tables["convert"] is None:
        faults.append("[score]: name predictions and truth, or add a table [convert]")
    return faults


def _plain(model: BaseModel | tuple[BaseModel, ...] | None) -> Any:
    if isinstance(model, tuple):
        return [_plain(one) for one in model]
    return None if model is None else {name: getattr(model, name) for name in type(model).model_fields}


def _score(values: Mapping[str, Any]) -> ScoreTable:
    options = {one.name: values[one.name] for one in fields(ScoreOptions)}
    return ScoreTable(values["predictions"], values["truth"], ScoreOptions(**options))


def _values(options: Any) -> dict[str, Any]:
    values = {one.name: getattr(options, one.name) for one in fields(options) if one.name != "resume"}
    # What is written beside a result must open no doors.
    return {name: redacted(value) if name in ("address", "get") else value for name, value in values.items() if value is not None}


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    # A JSON string is a TOML string, but for the one control character that JSON leaves bare.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
