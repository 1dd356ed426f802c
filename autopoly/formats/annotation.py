"""Instances and COCO annotations: one way in and one way out, for every format (a Parquet row is a COCO annotation in columns)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from autopoly.formats import segmentation
from autopoly.formats.base import id_of, is_id, is_number, read_box, xywh_of
from autopoly.geometry import raster
from autopoly.geometry.boxes import xyxy_to_xywh
from autopoly.types import Header, Instance, Record


def instance_of(annotation: dict[str, Any], ordinal: int, size: tuple[int, int] | None, convention: str = "xywh") -> tuple[Instance, bool]:
    """Make an instance of a COCO annotation, which it keeps whole as ``extra`` (its box as xywh); say whether its segmentation was sound.

    ``size`` is the picture's (height, width) or None; ``convention`` is how ``bbox`` is meant. An annotation without an id is called
    ``#ordinal``. Crowd regions have no problem, whatever their box: they are carried, not segmented. Nothing is raised.
    """
    crowd = bool(annotation.get("iscrowd"))
    box, problem = read_box(annotation.get("bbox"), size, convention)
    if convention == "xyxy" and np.isfinite(box).all():
        annotation = annotation | {"bbox": xywh_of(box)}  # Whoever reads it next takes it for COCO's.
    mask, sound = segmentation.parse(annotation.get("segmentation"), size)
    category = id_of(annotation.get("category_id"))
    instance = Instance(
        ordinal=ordinal,
        instance_id=annotation["id"] if is_id(annotation.get("id")) else f"#{ordinal}",
        category_id="" if category is None else category,
        box=box,
        mask=mask,
        score=_number(annotation.get("score")),
        crowd=crowd,
        quality=_number(annotation.get("quality")),
        problem=None if crowd else problem,
        extra=annotation,
    )
    return instance, sound


def annotation_of(instance: Instance, record: Record) -> dict[str, Any]:
    """Give the COCO annotation of an instance: the source's own, with what a run made of it.

    Crowd regions and instances no run has touched (``mask_source`` None) come back as they were; kept masks keep their segmentation.
    """
    source = dict(instance.extra) if instance.extra else _bare(instance, record)
    if instance.crowd or instance.mask_source is None:
        return source
    own_score = source.get("score")
    if source.get("mask_source") == "predicted" and own_score == source.get("quality"):
        own_score = None  # An earlier run of ours put its estimate there.
    for stale in ("quality", "bbox_tight", "mask_source", *(("score",) if own_score is None else ())):
        source.pop(stale, None)
    mask = () if instance.mask is None or instance.mask_source == "none" else instance.mask
    if instance.mask_source == "predicted":
        source["segmentation"] = segmentation.dump(mask, record.size)
        source["area"] = raster.area(raster.of_mask(mask, record.size or segmentation.extent(mask)))
    elif instance.mask_source == "none":
        source["segmentation"], source["area"] = [], 0.0
    elif "area" not in source:
        source["area"] = raster.area(raster.of_mask(mask, record.size or segmentation.extent(mask)))
    if instance.quality is not None and instance.mask_source != "kept":
        source["quality"] = round(float(instance.quality), 4)
        if own_score is None:
            source["score"] = source["quality"]
    tight = segmentation.bounds_xywh(mask)
    if tight is not None:
        source["bbox_tight"] = tight
    source["mask_source"] = instance.mask_source
    return source


def image_of(record: Record) -> dict[str, Any]:
    """Give the COCO image of a record: the source's own, with its width and height where only the picture told them."""
    image = dict(record.extra) if record.extra else {"id": record.image_id, "file_name": record.file_name}
    if record.size is not None:
        for name, value in (("height", record.size[0]), ("width", record.size[1])):
            if image.get(name) is None:
                image[name] = value
    return image


def with_note(header: Header, unsound: int) -> Header:
    """Add to a header's notes how many segmentations could not be read so far."""
    line = f"{unsound} annotations have a segmentation that is malformed or of another picture size: not scored, carried as it is where no "
    line += "polygon is predicted"
    return replace(header, notes=(*header.notes, line))


def _bare(instance: Instance, record: Record) -> dict[str, Any]:
    bare: dict[str, Any] = {"id": instance.instance_id, "image_id": record.image_id, "category_id": instance.category_id}
    bare["bbox"] = xyxy_to_xywh(instance.box).tolist()
    bare["iscrowd"] = int(instance.crowd)
    if instance.mask is not None:
        bare["segmentation"] = segmentation.dump(instance.mask, record.size, decimals=None)
    if instance.score is not None:
        bare["score"] = instance.score
    return bare


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) and abs(value) < 1e300 else None
