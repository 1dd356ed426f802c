"""What is read comes back: COCO through COCO, and through Parquet, for annotations nobody would write by hand."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from autopoly.formats import coco, parquet

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6, allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
rings = st.lists(st.lists(numbers, min_size=6, max_size=12), max_size=3)
fields = st.fixed_dictionaries(
    {},
    optional={
        "bbox": st.lists(numbers | st.none(), min_size=3, max_size=5) | st.lists(numbers, min_size=4, max_size=4) | values,
        "segmentation": rings
        | st.fixed_dictionaries({"size": st.just([40, 30]), "counts": st.lists(st.integers(0, 1200), max_size=4) | names})
        | values,
        "iscrowd": st.sampled_from([0, 1, True, None]),
        "area": values | numbers,
        "score": values | numbers,
        "mask_source": values,
        "_mine": values,
    },
)


@st.composite
def datasets(draw):
    """Draw a COCO file with ids of one kind, images without boxes, annotations in any order, unlisted images."""
    number = st.integers(-5, 2**62) if draw(st.booleans()) else st.text("abc1", min_size=1, max_size=3)
    ids = draw(st.lists(number, min_size=1, max_size=4, unique=True))
    some = []
    for one in ids:
        more = draw(st.dictionaries(names.filter(lambda name: name not in ("id", "file_name", "width", "height")), values, max_size=2))
        size = draw(st.sampled_from([{}, {"width": 30, "height": 40}, {"width": None, "height": 1.5}]))
        some.append({"id": one, "file_name": f"{len(some)}.png"} | size | more)
    listed = some[: draw(st.integers(0, len(some)))]
    annotations = []
    for number in range(draw(st.integers(0, 6))):
        core = {
            "id": draw(st.integers(1, 4) | st.just(number)),
            "image_id": draw(st.sampled_from(ids)),
            "category_id": draw(st.integers(0, 5)),
        }
        annotations.append(core | draw(fields))
    head = draw(st.dictionaries(names.filter(lambda name: name not in ("images", "annotations", "categories")), values, max_size=2))
    return head | {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "one", "x": draw(values)}]}


def through(module, source, path):
    module.write(source.header, (source.record(index) for index in range(len(source.counts))), path)
    return module.read(path)


def canonical(value):
    return json.dumps(value, sort_keys=True)


@settings(max_examples=80, deadline=None)
@given(datasets())
def test_coco_comes_back_as_it_was(whole):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        path.write_text(json.dumps(whole))
        through(coco, coco.read(path), Path(folder, "b.json"))
        assert canonical(json.loads(Path(folder, "b.json").read_text())) == canonical(whole)


@settings(max_examples=80, deadline=None)
@given(datasets())
def test_coco_comes_back_from_parquet(whole):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        path.write_text(json.dumps(whole))
        once = through(parquet, coco.read(path), Path(folder, "a.parquet"))
        through(coco, once, Path(folder, "b.json"))
        back = json.loads(Path(folder, "b.json").read_text())
        assert back["images"] == whole["images"] and {**back, "annotations": 0} == {**whole, "annotations": 0}
        # Rows come image by image: in COCO's own order only within an image.
        places = {
            one: place
            for place, one in enumerate(
                dict.fromkeys([*(i["id"] for i in whole["images"]), *(a["image_id"] for a in whole["annotations"])])
            )
        }
        assert back["annotations"] == sorted(whole["annotations"], key=lambda one: places[one["image_id"]])
        through(parquet, once, Path(folder, "b.parquet"))
        assert Path(folder, "a.parquet").read_bytes() == Path(folder, "b.parquet").read_bytes()
