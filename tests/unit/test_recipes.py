"""Recipes: strict, all faults at once, the shipped ones sound, and what is resolved reads back as the same."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

from autopoly import recipes
from autopoly.cli.train import _options
from autopoly.errors import DataError, RecipeError
from autopoly.jobs import recipe_data
from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.train_options import TrainOptions

ROOT = Path(__file__).parents[2] / "pipelines"
SHIPPED = sorted(ROOT.rglob("*.toml"))
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in SHIPPED]
PAPER = {f"paper/{name}" for name in ("cityscapes", "cityscapes-components", "kitti", "ade20k", "rooftop", "coco")}


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def refusal(tmp_path, text, *settings):
    with pytest.raises(RecipeError) as refused:
        recipes.load(written(tmp_path, text), settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_recipes_of_the_plan_are_there():
    assert PAPER | {"quickstart", "convert-coco", "convert-kitti", "convert-parquet", "score", "train", "finetune", "train-default"} <= set(
        NAMES
    )


@pytest.mark.parametrize("path", SHIPPED, ids=NAMES)
def test_a_shipped_recipe_keeps_its_header_s_contract(path):
    text = path.read_text()
    header = text.split("\n[")[0]
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    assert all(line.startswith("#") or not line for line in header.splitlines())
    assert f"#   autopoly run {name}" in header
    assert re.search(r"^# Data: \S", header, re.MULTILINE) and re.search(r"^# Cost: \S", header, re.MULTILINE)
    recipe = recipes.load(path)
    assert recipe.data.demo or recipe.data.get
    assert (name in PAPER) == bool(recipe.expect)
    assert {one.table for one in recipe.expect} <= {"I", "II", "III", "IV"}
    for one in recipe.expect:
        values = [one.miou, one.map, one.f_1px, one.f_2px, *one.per_category.values()]
        assert all(1 < value < 100 for value in values if value is not None), "percent, as the paper prints them"


@pytest.mark.parametrize("path", SHIPPED, ids=NAMES)
def test_what_is_resolved_reads_back_as_the_same(path, tmp_path):
    recipe = recipes.load(path)
    again = written(tmp_path, recipes.dump(recipe))
    assert dataclasses.replace(recipes.load(again), name=recipe.name) == recipe


def test_cityscapes_rows_agree_with_their_own_mean():
    # Table I: the mean of the eight categories is the mIoU, within rounding. It caught a row that had been read from the line above.
    first = recipes.load(recipes.find("paper/cityscapes-components")).expect[0]
    assert sum(first.per_category.values()) / 8 == pytest.approx(first.miou, abs=0.06)
    whole = recipes.load(recipes.find("paper/cityscapes")).expect[0]
    assert set(whole.per_category) < set(first.per_category)
    assert all(value < first.per_category[name] for name, value in whole.per_category.items()), "parts are easier, says the paper"


def test_the_default_s_recipe_is_that_of_its_checkpoint(shipped):
    about = json.loads((shipped / "config.json").read_text())["about"]
    train = recipes.load(recipes.find("train-default")).train
    assert {path.name: weight for path, weight in train.train} == {name: one["weight"] for name, one in about["trained_on"].items()}
    assert [path.name for path in train.val] == about["held_out"][:1]
    learned = about["training"]
    for name in ("minutes", "batch", "rate", "warmup", "unfreeze", "seed"):
        assert getattr(train, name) == learned[name], name
    assert [list(one) for one in train.sides] == learned["sides"]
    assert (train.correction_steps, train.seed) == (about["corrections"]["steps"], about["corrections"]["seed"])


def test_an_awkward_value_survives_the_resolved_recipe(tmp_path):
    awkward = 'a "quoted"\\ päth \U0001f600\x7f.json'
    recipe = recipes.load(written(tmp_path, "[convert]\nsource = 'x'\n"))
    recipe = dataclasses.replace(recipe, convert=dataclasses.replace(recipe.convert, source=Path(awkward), tolerance=1e-7, limit=3))
    assert tomllib.loads(recipes.dump(recipe))["convert"]["source"] == awkward
    assert recipes.load(written(tmp_path, recipes.dump(recipe))) == recipe


def test_tables_have_the_fields_of_the_commands_and_no_others():
    options = {"convert": ConvertOptions, "train": TrainOptions}
    for name, kind in options.items():
        assert set(recipes.TABLES[name].model_fields) == {one.name for one in dataclasses.fields(kind)} - {"out", "resume"}


def test_every_fault_is_said_in_one_line(tmp_path):
    text = """
    titel = "x"
    [convert]
    sorce = "a"
    workers = -2
    tolerance = "soft"
    min_quality = 3.0
    components_from_truth = true
    [score]
    per = "pixel"
    min_side = -1
    [trian]
    epochs = 1
    [[expect]]
    table = "I"
    row = "x"
    f_1 = 3.0
    """
    line = refusal(tmp_path, text)
    for part in (
        "titel: unknown; known are data, train, convert, score, expect",
        "[convert] source: missing",
        "[convert] sorce: unknown key; did you mean 'source'?",
        "[convert] workers -2",
        "[convert] tolerance: expected a valid number, not 'soft'",
        "[convert] min_quality 3.0: expected a fraction",
        "components_from_truth",
        "[score] per: expected 'instance' or 'component', not 'pixel'",
        "[score] min_side -1",
        "trian: unknown table; did you mean 'train'?",
        "[[expect]] 0 f_1: unknown key; did you mean 'f_1px'?",
        "11 errors",
    ):
        assert part in line, (part, line)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "nothing to do"),
        ("[data]\nname = 'x'\n", "nothing to do"),
        ("convert = 3\n", "[convert]: expected"),
        ("[convert\n", "not a readable TOML file"),
        ("[convert]\nsource = 'a'\nlimit = 'five'\n", "[convert] limit: expected a valid integer, not 'five'"),
        ("[convert]\nsource = 'a'\nlimit = true\n", "[convert] limit"),
        ("[convert]\nsource = 5\n", "[convert] source"),
        ("[convert]\nsource = 'a'\nstrict = 1\n", "[convert] strict: expected a valid boolean"),
        ("[convert]\nsource = 'a'\nworkers = 'many'\n", "[convert] workers: expected a valid integer, not 'many' or expected 'auto'"),
        ("[convert]\nsource = 'a'\ntolerance = nan\n", "[convert] tolerance"),
        ("[convert]\nsource = 'a'\nsource = 'b'\n", "not a readable TOML file"),
        ("[convert]\nsource = 'a'\nout = 'b'\n", "[convert] out: unknown"),
        ("[train]\nsource = 'a'\n", "[train] train: missing"),
        ("[score]\n", "or add a table [convert]"),
        ("[score]\npredictions = ['a']\n", "name both"),
        ("[train]\ntrain = []\n", "[train] train: name at least one"),
        ("[train]\ntrain = [['a', -1]]\n", "[train] train SRC=WEIGHT: a weight must be above 0"),
        ("[train]\ntrain = ['a']\n", "[train] train"),
    ],
)
def test_a_fault_is_named(text, part, tmp_path):
    assert part in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ("convert.limit=5", lambda made: made.convert.limit == 5),
        ("convert.workers=0", lambda made: made.convert.workers == 0),
        ("convert.checkpoint=runs/mine/checkpoint", lambda made: made.convert.checkpoint == "runs/mine/checkpoint"),
        ("convert.checkpoint=a=b", lambda made: made.convert.checkpoint == "a=b"),
        ('convert.categories=["car", "bus"]', lambda made: made.convert.categories == ("car", "bus")),
        ("score.min_side=32", lambda made: made.score.options.min_side == 32),
        ("convert.tolerance = 0.25", lambda made: made.convert.tolerance == 0.25),
    ],
)
def test_set_changes_one_option(setting, check, tmp_path):
    assert check(recipes.load(written(tmp_path, "[convert]\nsource = 'a'\n"), [setting]))


@pytest.mark.parametrize("setting", ["limit=5", "convert.limit", "expect.table=I", "convert.=5", "other.x=1", "convert.limit.x=1"])
def test_set_must_name_a_table_and_a_key(setting, tmp_path):
    assert "table.key=value" in refusal(tmp_path, "[convert]\nsource = 'a'\n", setting)
    assert "did you mean 'limit'" in refusal(tmp_path, "[convert]\nsource = 'a'\n", "convert.limits=5")


def test_a_recipe_is_found_by_path_or_by_name(tmp_path):
    mine = written(tmp_path, "[convert]\nsource = 'a'\n")
    assert recipes.find(str(mine)) == mine
    assert recipes.find("paper/kitti") == recipes.find("pipelines/paper/kitti.toml").absolute() == ROOT / "paper" / "kitti.toml"
    with pytest.raises(RecipeError, match="did you mean paper/kitti"):
        recipes.find("paper/kity")
    with pytest.raises(RecipeError, match="no such recipe"):
        recipes.find(str(tmp_path / "none.toml"))


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_data_is_found_at_or_below_the_folder_given(tmp_path, monkeypatch):
    recipe = recipes.load(recipes.find("paper/rooftop"))
    with pytest.raises(DataError, match=r"no test/IMG_\*\.mat in it or in its folders; give --data .*; Rooftop: .*ECCV 2014"):
        recipe_data.locate(recipe, tmp_path)
    (tmp_path / "test").mkdir()  # another dataset's, without outlines
    touch(tmp_path / "sets" / "rooftop" / "test" / "IMG_0001.mat")
    for data in (tmp_path, tmp_path / "sets", tmp_path / "sets" / "rooftop"):
        assert recipe_data.locate(recipe, data).convert.source == tmp_path / "sets" / "rooftop" / "test"
    touch(tmp_path / "other" / "test" / "IMG_0001.mat")
    with pytest.raises(DataError, match="and in"):
        recipe_data.locate(recipe, tmp_path)
    touch(tmp_path / "test" / "IMG_0001.mat")
    assert recipe_data.locate(recipe, tmp_path).convert.source == tmp_path / "test"
    monkeypatch.setenv("AUTOPOLY_DATA", "/somewhere")
    assert recipe_data.data_folder(None) == Path("/somewhere")
    assert recipe_data.data_folder(tmp_path) == tmp_path


def test_all_paths_of_a_recipe_lie_below_one_folder(tmp_path):
    recipe = recipes.load(recipes.find("paper/coco"))
    touch(tmp_path / "a" / "annotations" / "instances_val2017.json", tmp_path / "b" / "val2017" / "1.jpg")
    with pytest.raises(DataError, match="cocodataset"):
        recipe_data.locate(recipe, tmp_path)
    touch(tmp_path / "a" / "val2017" / "1.jpg")
    placed = recipe_data.locate(recipe, tmp_path).convert
    assert (placed.source, placed.images) == (tmp_path / "a" / "annotations" / "instances_val2017.json", tmp_path / "a" / "val2017")


def test_train_takes_a_recipe_and_what_is_given_beside_it(tmp_path):
    touch(tmp_path / "train" / "annotations.json", tmp_path / "val" / "annotations.json")
    options = _options("finetune", tmp_path, {"minutes": 3.0, "seed": 7}, tmp_path / "out", resume=True)
    assert options == TrainOptions(
        train=((tmp_path / "train", 1.0),),
        val=(tmp_path / "val",),
        out=tmp_path / "out",
        epochs=2.0,
        minutes=3.0,
        seed=7,
        init="siamanno-lite0",
        resume=True,
    )
    made = _options("finetune", tmp_path, {"train": ((Path("mine"), 2.0),)}, tmp_path, resume=False)
    assert (made.train, made.val) == (((Path("mine").absolute(), 2.0),), (tmp_path / "val",))
    with pytest.raises(RecipeError, match=r"no table \[train\]"):
        _options("quickstart", None, {}, tmp_path, resume=False)
    with pytest.raises(RecipeError, match="name a recipe, or"):
        _options(None, None, {}, tmp_path, resume=False)
