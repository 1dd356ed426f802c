"""What a report says and what it must never do: grow, let the data run as code, or change from run to run."""

import base64
import hashlib
import json
import random
import re
from collections import Counter
from html.parser import HTMLParser

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from skimage import data

from autopoly.errors import Failure
from autopoly.geometry import raster
from autopoly.jobs.conversion import part_rows
from autopoly.jobs.score import ScoreOptions, score_tables
from autopoly.report import failed, gallery, published, report_files, survey
from autopoly.report.picks import BEST, MEDIAN, WORST, Key, Picks
from autopoly.types import Instance, Polygon, Record, Rle

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\ud800"


class Page(HTMLParser):
    """Collects elements, the text of each kind, and every attribute."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.raw = path.read_text(encoding="utf-8")
        self.elements, self.texts, self.attributes, self.open = Counter(), {}, [], []
        self.cards = []
        self.feed(self.raw)

    def handle_starttag(self, tag, attributes):
        self.elements[tag] += 1
        self.open.append(tag)
        self.attributes += [(tag, *one) for one in attributes]
        if dict(attributes).get("class") == "card":
            self.cards.append(dict(attributes))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        self.texts[self.open[-1] if self.open else ""] = self.texts.get(self.open[-1] if self.open else "", "") + text


def write(folder, name, move, images=6, category="cup", side=30):
    """Write squares of ``side`` px, the n-th of an image moved by ``move(n)`` px, on crops of a real picture."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotations, listed = [], []
    for at in range(images):
        file = f"{at}.png"
        cv2.imwrite(str(folder / "images" / file), data.chelsea()[at * 20 : at * 20 + 100, 40:160, ::-1])
        listed.append({"id": at, "file_name": file, "height": 100, "width": 120})
        for n in range(4):
            x, y = 2 + 26 * n + move(n), 20.0
            ring = [x, y, x + side, y, x + side, y + side, x, y + side]
            common = {"id": 10 * at + n, "image_id": at, "category_id": n % 2, "iscrowd": 0, "bbox": [x - move(n), y, side, side]}
            annotations.append({**common, "segmentation": [ring], "quality": 0.9 - n / 10})
    categories = [{"id": 0, "name": category}, {"id": 1, "name": "cat"}]
    path = folder / name
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


def report(folder, prediction, truth, name="report.html", others=()):
    result, tables = score_tables([prediction, *others], truth, ScoreOptions(resamples=20))
    report_files(folder / name, result, tables[0], prediction, truth, None)
    return Page(folder / name)


@pytest.fixture(scope="module")
def scored_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scored")


@pytest.fixture(scope="module")
def scored(scored_folder):
    truth = write(scored_folder, "truth.json", lambda n: 0, category=HOSTILE)
    return report(scored_folder, write(scored_folder, "made.json", lambda n: 3 * n), truth)


def test_a_name_from_the_data_is_text_and_never_code(scored):
    assert scored.elements["script"] == 1
    assert "<script>alert(1)</script>\"'&{{ 7 * 7 }}?" in scored.texts["span"]
    assert "alert" not in scored.texts["script"]
    assert not [one for one in scored.attributes if one[1].startswith("on") or one[1] == "style"]


def test_the_policy_allows_this_script_and_style_and_pictures_inside_alone(scored):
    (policy,) = (value for tag, name, value in scored.attributes if name == "content" and "default-src" in value)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(scored.texts[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    links = [value for _, name, value in scored.attributes if name in ("src", "href")]
    assert len(links) > 24
    assert all(value.startswith(("data:", "#")) for value in links)
    assert "http" not in re.sub(r'(d|src)="[^"]*"', "", scored.raw).replace("http-equiv", "")


def test_the_gallery_has_every_instance_of_a_small_set_the_worst_first(scored):
    ious = [float(card["data-iou"]) for card in scored.cards]
    assert len(ious) == 24
    assert ious == sorted(ious)
    # Squares of 30 px, moved by 0, 3, 6 and 9.
    assert {round(iou, 4) for iou in ious} == {round((30 - d) / (30 + d), 4) for d in (0, 3, 6, 9)}
    assert Counter(card["data-group"] for card in scored.cards) == {"worst": 12, "median": 6, "best": 6}
    worst = scored.cards[0]
    assert float(worst["data-gap"]) == pytest.approx(abs(21 / 39 - 0.6), abs=1e-5)


def test_the_numbers_of_the_score_are_on_the_page(scored, scored_folder):
    result, _ = score_tables([scored_folder / "made.json"], scored_folder / "truth.json", ScoreOptions(resamples=20))
    for key in ("miou", "map", "f_1px", "f_2px", "pass_rate"):
        assert f"{100 * result[key]:.2f}" in scored.raw
    assert result["convention"]["rasteriser"] in scored.texts["dd"]
    assert "published" not in scored.raw


def test_several_predictions_stand_side_by_side(tmp_path):
    truth, first = write(tmp_path, "truth.json", lambda n: 0), write(tmp_path, "first.json", lambda n: 2)
    page = report(tmp_path, first, truth, others=[write(tmp_path, "second.json", lambda n: 0)])
    assert ">first.json<" in page.raw
    assert ">second.json<" in page.raw
    assert "second.json against first.json: 24 instances better, 0 worse" in page.texts["p"]


def test_the_same_score_gives_the_same_bytes_whatever_the_order_of_the_file(tmp_path):
    truth, made = write(tmp_path, "truth.json", lambda n: 0), write(tmp_path, "made.json", lambda n: 3 * n)
    first = report(tmp_path, made, truth).raw
    document = json.loads(made.read_text())
    random.Random(4).shuffle(document["annotations"])
    made.write_text(json.dumps(document))
    assert report(tmp_path, made, truth).raw == first


def test_pictures_that_are_not_there_are_named_and_the_outlines_drawn(tmp_path):
    truth, made = write(tmp_path, "truth.json", lambda n: 0), write(tmp_path, "made.json", lambda n: n)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    page = report(tmp_path, made, truth)
    assert page.texts["p"].count("no picture: image_missing") == 24
    assert sum(1 for tag, name, _ in page.attributes if (tag, name) == ("path", "d")) > 48


def test_truths_without_a_prediction_are_listed_and_shown(tmp_path):
    truth, made = write(tmp_path, "truth.json", lambda n: 0), write(tmp_path, "made.json", lambda n: 0)
    document = json.loads(made.read_text())
    document["annotations"][5]["segmentation"] = []
    del document["annotations"][9]
    made.write_text(json.dumps(document))
    page = report(tmp_path, made, truth)
    assert Counter(card["data-group"] for card in page.cards)["no polygon"] == 2
    assert page.raw.count("<code>no_mask</code>") == page.raw.count("<code>no_annotation</code>") == 2
    assert "2 boxes without a polygon" in page.texts["a"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("cityscapes/val.json", ("76.69", "72.33", "published")), ("rooftop-test.json", ("78.04", "49.9", "published")), ("street.json", ())],
)
def test_published_numbers_stand_beside_ours_for_sets_of_the_paper_alone(tmp_path, name, said):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    made = write(tmp_path, "made.json", lambda n: n)
    truth = write((tmp_path / name).parent, (tmp_path / name).name, lambda n: 0, category="rider")
    page = report(tmp_path, made, truth)
    for word in said:
        assert word in page.raw
    assert ("71.02" in page.raw) == ("cityscapes" in name)  # rider, Table I
    assert ("published" in page.raw) == bool(said)


def test_the_published_numbers_are_those_of_the_paper():
    rows = {(row.label): (row.miou, row.map, row.f_1px, row.f_2px) for row in published.PUBLISHED}
    assert rows["KITTI"] == (86.41, 69.3, 67.56, 81.37)
    assert rows["COCO"] == (79.85, 56.3, 59.17, 71.37)
    per_component = next(row for row in published.PUBLISHED if row.label == "Cityscapes†")
    # The mean of the categories in Table I is the mIoU of Table IV.
    assert np.mean(list((per_component.categories or {}).values())) == pytest.approx(per_component.miou, abs=0.01)
    assert [row.label for row in published.find("x/ADE20K_2021/val.json")] == ["ADE20k"]
    assert published.find("/home/coco/a/b/c/street.json") == []


@pytest.mark.parametrize("n", [0, 1, 3, 200, 201, 2000])
def test_picks_are_the_worst_the_best_and_some_in_the_middle(n):
    rng = np.random.default_rng(n)
    values = np.round(rng.beta(5, 2, n), 3).tolist()
    entries = [(value, Key(at, at, at)) for at, value in enumerate(values)]

    def choose(order):
        picks = Picks()
        for value, key in order:
            picks.add(value, key)
        return picks.chosen()

    chosen = choose(entries)
    assert len({one.key for one in chosen}) == len(chosen) == min(n, WORST + MEDIAN + BEST)
    groups = {name: [one for one in chosen if one.group == name] for name in ("worst", "median", "best")}
    assert [(one.value, one.key) for one in groups["worst"]] == sorted(entries)[: min(WORST, (n + 1) // 2)]
    assert sorted(one.value for one in groups["best"]) == sorted(values)[n - min(BEST, n // 4) :]
    if n == 2000:
        assert all(abs(one.value - np.median(values)) < 0.02 for one in groups["median"])
    if n > 200:
        rng.shuffle(entries)
        assert choose([(value, Key(*key)) for value, key in ((float(v), k) for v, k in map(tuple, entries))]) == chosen


def test_a_survey_counts_and_finds_quartiles():
    found = survey.Survey()
    for at in range(1000):
        found.add(at / 1000, "1", 20.0, Key(at, at, -1))
    found.add(1.0, "2", float("nan"), None)
    assert (found.n, found.below(0.5), found.histogram[-1]) == (1001, 500, 51)
    n, low, middle, high = found.quantiles(1)
    assert n == 1000
    assert (low, middle, high) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.5, abs=0.01), pytest.approx(0.75, abs=0.01))
    assert found.quantiles(0)[0] == 0
    assert found.mean == pytest.approx((499.5 + 1) / 1001)
    assert survey.Survey().mean is None


def instance(mask, box=(20, 30, 60, 50), **fields):
    return Instance(0, 7, 1, np.array(box, np.float64), mask, **fields)


def subject(one, record, root="", **fields):
    return gallery.Subject("worst", record, str(root), "cup", one, None, **fields)


def numbers(path):
    return np.array([float(value) for value in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)


def test_outlines_lie_over_what_they_outline():
    ring = np.array([[20, 30], [60, 30], [60, 50], [20, 50.0]])
    record = Record(0, 1, "", (100, 100), ())
    mask = raster.to_rle((Polygon(ring),), (100, 100))
    (drawn, traced), left = gallery.cards([subject(instance((Polygon(ring),)), record), subject(instance(mask), record)])
    assert left == 0
    assert (drawn.problem, drawn.data) == ("image_missing", "")
    # A square of 1.3 x 40 px around the box is shown on SIDE px.
    scale = gallery.SIDE / 52
    assert drawn.box == (pytest.approx(6 * scale, abs=0.06), pytest.approx(16 * scale, abs=0.06), pytest.approx(40 * scale, abs=0.06), 67.7)
    assert numbers(drawn.predicted).min(0) == pytest.approx(drawn.box[:2], abs=0.06)
    assert {tuple(one) for one in numbers(traced.predicted)} == {tuple(one) for one in numbers(drawn.predicted)}


def test_holes_and_parts_are_drawn():
    outer = np.array([[10, 10], [90, 10], [90, 90], [10, 90.0]])
    hole = np.array([[30, 30], [30, 60], [60, 60], [60, 30.0]])
    (card,), _ = gallery.cards([subject(instance((Polygon(outer, (hole,)), Polygon(hole))), Record(0, 1, "", (100, 100), ()))])
    assert card.predicted.count("M") == card.predicted.count("Z") == 3


@pytest.mark.parametrize("box", [(np.nan,) * 4, (4, 4, 1, 9), (5000, 5000, 5010, 5020), (-1e9, 0, 1e9, 5), (3, 3, 3, 3)])
def test_a_box_that_is_none_still_gets_a_card(tmp_path, box):
    cv2.imwrite(str(tmp_path / "a.png"), data.coffee()[:90, :70])
    (card,), _ = gallery.cards([subject(instance(None, box), Record(0, 1, "a.png", None, ()), tmp_path)])
    assert card.data.startswith("data:image/jpeg;base64,")
    assert card.predicted == ""


def test_cards_stay_within_their_number_and_bytes(tmp_path):
    rng = np.random.default_rng(1)
    cv2.imwrite(str(tmp_path / "noise.png"), rng.integers(0, 256, (400, 400, 3), dtype=np.uint8))
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    rough = np.stack([200 + np.cos(angle) * rng.uniform(20, 190, angle.size), 200 + np.sin(angle) * rng.uniform(20, 190, angle.size)], 1)
    one = Instance(0, "n" * 5000, 1, np.array([5, 5, 395, 395.0]), (Polygon(rough), Polygon(rough)))
    record = Record(0, "&" * 5000, "noise.png", (400, 400), ())
    made, left = gallery.cards([gallery.Subject("worst", record, str(tmp_path), "<" * 5000, one, one)] * 320)
    assert len(made) + left == 320
    assert 0 < len(made) <= gallery.LIMIT
    assert sum(card.bytes for card in made) <= gallery.BUDGET
    assert max(len(card.name) for card in made) == gallery.TEXT


def test_failures_are_all_counted_and_some_listed(tmp_path):
    rows = (Failure(at, "7", None if at % 2 else str(at), "a.png", "read", f"code_{at % 3}", "m" * 9000) for at in range(1000))
    counts = part_rows.write_failures(rows, tmp_path / "failures.parquet")
    found = failed.of_run(tmp_path / "failures.parquet")
    assert found.count == 1000
    assert {one.code: one.count for one in found.reasons} == counts
    assert len(found.listed) == failed.LISTED < pq.read_metadata(tmp_path / "failures.parquet").num_rows
    assert max(len(one.message) for one in found.listed) == failed.LONGEST


def test_a_mask_of_a_large_picture_costs_what_its_card_can_show():
    mask = np.zeros((3000, 4000), bool)
    mask[500:2500, 1000:3000] = np.indices((2000, 2000))[0] % 400 < 300
    one = Instance(0, 1, 1, np.array([1000, 500, 3000, 2500.0]), raster.encode(mask))
    assert isinstance(one.mask, Rle)
    (card,), _ = gallery.cards([subject(one, Record(0, 1, "", (3000, 4000), ()))])
    assert card.predicted.count("M") == 5
    assert len(card.predicted) < 500
