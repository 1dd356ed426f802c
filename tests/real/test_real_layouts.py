"""The readers of ADE20K and Rooftop on one genuine photo of each, as their owners give them out; skipped where they are not there."""

import json

import cv2
import numpy as np
import pytest

from autopoly import formats, images
from autopoly.geometry import raster

pytestmark = pytest.mark.real


@pytest.fixture
def layouts(shared):
    if not (shared / "layouts").is_dir():
        pytest.skip("no genuine layouts beside the photos")
    return shared / "layouts"


def test_ade20k_has_the_pixels_of_its_pictures_of_labels(layouts):
    assert formats.detect(layouts / "ade20k") == "ade20k"
    source = formats.FORMATS["ade20k"].read(layouts / "ade20k")
    record = source.record(0)
    assert images.read_rgb(record, source.image_root).shape[:2] == record.size
    assert len(record.instances) == 32 and all(one.problem is None for one in record.instances)
    stem = (layouts / "ade20k" / record.file_name).with_suffix("")
    objects = json.loads(stem.with_suffix(".json").read_bytes().decode("latin-1"))["annotation"]["object"]
    seg, parts = (cv2.imread(f"{stem}_{name}.png")[..., 0] for name in ("seg", "parts_1"))
    alone = 0
    for instance, found in zip(record.instances, objects, strict=True):
        levels = (parts if found["parts"]["part_level"] else seg)[raster.decode(instance.mask)]
        assert len(np.unique(levels)) == 1, "one object of the picture of labels"
        alone += int(((parts if found["parts"]["part_level"] else seg) == levels[0]).sum() == len(levels))
    assert alone >= 30  # two vans share a number there
    assert "car" in {one.name for one in source.header.categories}


def test_rooftop_outlines_lie_in_their_photo(layouts):
    source = formats.FORMATS["rooftop"].read(layouts / "rooftop" / "train")
    record = source.record(0)
    assert record.size == (750, 1000) == images.read_rgb(record, source.image_root).shape[:2]
    assert len(record.instances) == 7
    for one in record.instances:
        assert one.problem is None and (one.box[:2] >= 0).all() and (one.box[2:] <= (1000, 750)).all()
        assert raster.area(raster.of_mask(one.mask, record.size)) > 500
