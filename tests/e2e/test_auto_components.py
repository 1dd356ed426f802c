"""Objects in several parts, outlined once more part by part in closer crops: what is replaced, what it costs, the same bytes anywhere."""

import json
import sys

import cv2
import inscribed
import numpy as np
import pytest

from autopoly.geometry import raster
from autopoly.geometry.boxes import scale_xyxy
from autopoly.geometry.contours import trace_field
from autopoly.geometry.polygons import clean, iou
from autopoly.jobs.conversion.component_boxes import predict_parts
from autopoly.jobs.conversion.work import Network
from autopoly.jobs.convert import ConvertOptions, convert
from autopoly.predict import Prediction
from autopoly.types import Polygon

GRID = 24


class Coarse:
    """Outline what is bright in and around a box on a grid of 24 x 24 samples, as a network does on a finer one; note every box asked."""

    def __init__(self):
        self.asked = []

    def predict(self, items, overlaps=False):
        self.asked.append([box.tolist() for _, boxes in items for box in boxes])
        return [[self.outline(image, box) for box in boxes] for image, boxes in items]

    def outline(self, image, box):
        x1, y1, x2, y2 = scale_xyxy(box, 1.4)
        grey = image.mean(axis=2).astype(np.float32)
        columns = (x1 + (np.arange(GRID) + 0.5) * (x2 - x1) / GRID - 0.5).astype(np.float32)
        rows = (y1 + (np.arange(GRID) + 0.5) * (y2 - y1) / GRID - 0.5).astype(np.float32)
        field = cv2.remap(grey, *np.meshgrid(columns, rows), cv2.INTER_LINEAR)
        cell = np.array([x2 - x1, y2 - y1]) / GRID
        traced = [Polygon(one.exterior * cell + (x1, y1)) for one in trace_field(field, 128.0, 1.0)]
        parts = clean(traced, image.shape[:2], smallest_part=0.02)
        return Prediction(clean(traced, image.shape[:2]), 0.5 + len(parts) / 100, parts if len(parts) > 1 else ())


def picture(*discs, size=(280, 300)):
    image = np.zeros((*size, 3), np.uint8)
    for x, y, radius in discs:
        cv2.circle(image, (x, y), radius, (255, 255, 255), -1)
    return image


def truth(image, box):
    x1, y1, x2, y2 = (int(value) for value in box)
    mask = np.zeros(image.shape[:2], bool)
    mask[y1:y2, x1:x2] = image[y1:y2, x1:x2, 0] > 0
    return mask


def overlap(found, mask):
    drawn = raster.fill(found.polygons, mask.shape)
    return (drawn & mask).sum() / (drawn | mask).sum()


TWO, ONE = np.array([20.0, 30.0, 282.0, 132.0]), np.array([30.0, 210.0, 71.0, 251.0])


def test_parts_get_a_closer_look_and_single_ones_do_not():
    image, coarse = picture((60, 80, 30), (240, 60, 25), (50, 230, 18)), Coarse()
    first, alone = coarse.predict([(image, np.stack([TWO, ONE]))])[0]
    coarse.asked.clear()
    ((both, single),) = predict_parts(coarse, [(image, np.stack([TWO, ONE]))])
    assert [len(boxes) for boxes in coarse.asked] == [2, 2]
    near = [30.0, 50.0, 91.0, 111.0], [215.0, 35.0, 266.0, 86.0]
    assert all(np.abs(np.subtract(asked, disc)).max() < 6 for asked, disc in zip(coarse.asked[1], near, strict=True))
    assert overlap(both, truth(image, TWO)) > overlap(first, truth(image, TWO)) + 0.03
    assert (len(both.polygons), both.quality) == (2, first.quality)
    assert [one.exterior.tolist() for one in single.polygons] == [one.exterior.tolist() for one in alone.polygons]


def test_an_image_of_single_parts_costs_one_pass_and_no_box_none():
    image, coarse = picture((50, 230, 18)), Coarse()
    assert len(predict_parts(coarse, [(image, np.stack([ONE]))])[0]) == 1
    assert [len(boxes) for boxes in coarse.asked] == [1]
    assert predict_parts(coarse, []) == []


def test_several_images_keep_their_order():
    scenes = [picture((60, 80, 30), (240, 60, 25)), picture((50, 230, 18)), picture((60, 80, 30), (240, 60, 25), (50, 230, 18))]
    items = [(scenes[0], np.stack([TWO])), (scenes[1], np.stack([ONE])), (scenes[2], np.stack([ONE, TWO]))]
    together = predict_parts(Coarse(), items)
    for (image, boxes), found in zip(items, together, strict=True):
        assert [overlap(one, truth(image, box)) > 0.9 for one, box in zip(found, boxes, strict=True)] == [True] * len(boxes)
        (alone,) = predict_parts(Coarse(), [(image, boxes)])
        assert [ring.exterior.tolist() for one in alone for ring in one.polygons] == [
            ring.exterior.tolist() for one in found for ring in one.polygons
        ]


class Elsewhere(Coarse):
    """Outline the whole box where it is a part's: something else than that part, where the part fills little of it."""

    def predict(self, items, overlaps=False):
        found = super().predict(items, overlaps)
        return found if len(self.asked) == 1 else [[Prediction((_rectangle(box),), 0.9) for box in boxes] for _, boxes in items]


def _rectangle(box):
    x1, y1, x2, y2 = box
    return Polygon(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]))


def test_a_second_outline_of_something_else_is_not_taken():
    image = picture((60, 80, 30))  # a disc fills 79 % of its box, a slanting bar far less
    cv2.line(image, (200, 40), (260, 120), (255, 255, 255), 20)
    annotator = Elsewhere()
    ((found,),) = predict_parts(annotator, [(image, np.stack([TWO]))])
    first = Coarse().predict([(image, np.stack([TWO]))])[0][0]
    disc, bar = (next(one for one in found.polygons if bool(one.exterior[:, 0].min() < 150) == left) for left in (True, False))
    assert len(disc.exterior) == 4
    assert iou((bar,), (first.parts[1],)) > 0.99


def load(checkpoint, device, tolerance, threads):
    return Coarse()


def run(source, out, workers, mode="auto-components"):
    options = ConvertOptions(source=source, out=out, workers=workers, device="cpu", mode=mode, score=False)
    return convert(options, network=Network(load, "coarse-1"))


def bytes_of(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"), images=60)


def test_a_run_says_its_mode_and_differs_where_there_are_parts(made, tmp_path):
    run(made, tmp_path / "parts", 0)
    run(made, tmp_path / "whole", 0, "per-instance")
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["options"]["mode"] == record["inputs"]["mode"] == "auto-components"
    assert record["truth_boxes"] is False
    parts, whole = (json.loads((tmp_path / name / "annotations.json").read_text())["annotations"] for name in ("parts", "whole"))
    changed = [a["id"] for a, b in zip(parts, whole, strict=True) if a["segmentation"] != b["segmentation"]]
    assert 0.05 * len(parts) < len(changed) < len(parts)
    assert [one.get("quality") for one in parts] == [one.get("quality") for one in whole]


@pytest.mark.slow
def test_workers_do_not_change_a_byte_of_parts(ray_session, made, tmp_path):
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for workers in (0, 1, 2):
        run(made, tmp_path / str(workers), workers)
    assert bytes_of(tmp_path / "0") == bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")
