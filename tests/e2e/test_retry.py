"""A retry improves a finished result: the rows that are not run again stay as they are, and one that cannot go on can be left."""

import json
from dataclasses import dataclass, replace

import cv2
import inscribed
import numpy as np
import pyarrow.parquet as pq
import pytest

from autopoly.errors import RunError
from autopoly.jobs.convert import ConvertOptions, convert
from autopoly.types import Polygon


@dataclass
class Frame:
    polygons: tuple[Polygon, ...]
    quality: float = 0.5


class Framer:
    """Outline each box a little inside it, with a hole."""

    def predict(self, items, overlaps=False):
        return [[Frame((Polygon(corners(box, 0.3), (corners(box, 6.3)[::-1],)),)) for box in boxes] for _, boxes in items]


def corners(box, inset):
    x1, y1, x2, y2 = (*(box[:2] + inset), *(box[2:] - inset))
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


NETWORK = replace(inscribed.network(), load=lambda *_: Framer())


def run(source, out, progress=None, **options):
    asked = ConvertOptions(source=source, out=out, workers=0, device="cpu", score=False, **options)
    return convert(asked, progress, NETWORK)


def annotation(number, image, category=1):
    return {"id": number, "image_id": image, "category_id": category, "bbox": [5, 5, 40, 40]}


def write(folder, names, annotations):
    """Write a dataset of grey pictures, numbered from 0, and give its file."""
    (folder / "images").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / "images" / name), np.full((60, 60, 3), 90, np.uint8))
    images = [{"id": number, "file_name": name, "width": 60, "height": 60} for number, name in enumerate(names)]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def failed(tmp_path):
    """Give a dataset of two pictures of which the second is away, and a way to bring it back."""
    source = write(tmp_path / "data", ("a.png", "b.png"), [annotation(1, 0), annotation(2, 1)])
    picture = source.parent / "images/b.png"
    picture.rename(tmp_path / "away.png")
    return source, lambda: (tmp_path / "away.png").rename(picture)


@pytest.mark.parametrize("to", [("coco",), ("parquet",), ("coco", "parquet"), ("parquet", "coco")])
def test_rows_with_holes_that_are_not_run_again_stay_as_they_are(failed, tmp_path, to):
    source, bring_back = failed
    assert run(source, tmp_path / "out", to=to).counts["predicted"] == 1
    bring_back()
    assert run(source, tmp_path / "out", to=to, retry_failures=True).counts["predicted"] == 2
    run(source, tmp_path / "whole", to=to)
    for name in ("annotations.json", "annotations.parquet"):
        made, whole = (tmp_path / folder / name for folder in ("out", "whole"))
        assert made.exists() == whole.exists()
        assert not made.exists() or made.read_bytes() == whole.read_bytes()
    if "parquet" in to:
        assert all(row["polygons"] and row["holes"] for row in pq.read_table(tmp_path / "out/annotations.parquet").to_pylist())


def test_an_unlisted_image_without_chosen_boxes_does_not_move_the_others(tmp_path):
    rows = [annotation(1, 0), annotation(2, 1), annotation(3, 77, category=2), annotation(4, 78)]
    source = write(tmp_path / "data", ("a.png", "b.png"), rows)
    (source.parent / "images/b.png").rename(tmp_path / "away.png")
    assert run(source, tmp_path / "out", categories=("cup",)).counts["predicted"] == 1
    (tmp_path / "away.png").rename(source.parent / "images/b.png")
    again = run(source, tmp_path / "out", categories=("cup",), retry_failures=True)
    assert (again.counts["predicted"], again.counts["none"]) == (2, 1)


def test_a_retry_that_cannot_go_on_is_left_by_overwrite(failed, tmp_path):
    source, bring_back = failed
    run(source, tmp_path / "out")
    bring_back()
    made = tmp_path / "out/annotations.json"
    inscribed.change(made, lambda document: document["annotations"].pop(0))
    for _ in range(2):
        with pytest.raises(RunError, match="does not match the source; run again with --overwrite"):
            run(source, tmp_path / "out", retry_failures=True)
    assert run(source, tmp_path / "out", overwrite=True).counts["predicted"] == 2


def test_damaged_failures_are_left_by_overwrite(failed, tmp_path):
    source, bring_back = failed
    run(source, tmp_path / "out")
    bring_back()
    (tmp_path / "out/failures.parquet").write_bytes(b"PAR1")
    for _ in range(2):
        with pytest.raises(RunError, match=r"cannot be read .*; run again with --overwrite"):
            run(source, tmp_path / "out", retry_failures=True)
    assert run(source, tmp_path / "out", overwrite=True).exit_code == 0


def test_speed_counts_the_boxes_that_were_outlined(tmp_path):
    source = write(tmp_path / "data", ("a.png",), [annotation(n, 0, category=1 + (n > 0)) for n in range(200)])
    summary = run(source, tmp_path / "out", categories=("cup",))
    assert summary.boxes_per_second * summary.seconds == pytest.approx(1, abs=0.1)


def test_progress_counts_the_failures_of_an_earlier_start(tmp_path):
    names = tuple(f"{n}.png" for n in range(4))
    source = write(tmp_path / "data", names, [annotation(n, n // 60) for n in range(240)])
    (source.parent / "images/0.png").unlink()

    class Cut(Exception):
        pass

    def stop(progress):
        raise Cut

    with pytest.raises(Cut):
        run(source, tmp_path / "out", stop)
    seen = []
    assert run(source, tmp_path / "out", seen.append).failures == {"image_missing": 60}
    assert seen[0].boxes_before > 0
    assert {one.failures for one in seen} == {60}
