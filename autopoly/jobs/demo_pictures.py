"""The photos of the demo, which scikit-image brings along, and boxes drawn by hand around what is on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.errors import RunError

DESCRIPTION = "The photos of `autopoly demo`, with boxes drawn by hand"


@dataclass(frozen=True, slots=True)
class Picture:
    """A photo of scikit-image by name, who made it, and boxes (category, x1, y1, x2, y2), image px."""

    name: str
    credit: str
    boxes: tuple[tuple[str, int, int, int, int], ...]


PICTURES = (
    Picture(
        "astronaut",
        "NASA, public domain",
        (
            ("person", 19, 15, 366, 512),
            ("helmet", 277, 343, 512, 512),
            ("space shuttle", 354, 0, 457, 283),
            ("badge", 133, 348, 208, 423),
        ),
    ),
    Picture(
        "coffee",
        "Rachel Michetti, CC0",
        (("cup", 172, 18, 410, 308), ("saucer", 77, 68, 480, 391), ("spoon", 326, 66, 425, 326)),
    ),
    Picture(
        "camera",
        "Lav Varshney, CC0",
        (("person", 0, 63, 333, 512), ("video camera", 253, 139, 326, 187), ("tripod", 230, 205, 409, 512), ("tower", 412, 117, 433, 194)),
    ),
    Picture(
        "chelsea",
        "Stefan van der Walt, CC0",
        (("cat", 0, 0, 400, 300), ("eye", 136, 86, 207, 148), ("eye", 296, 110, 343, 164), ("nose", 240, 228, 292, 266)),
    ),
    Picture("rocket", "SpaceX, public domain", (("rocket", 310, 127, 335, 407),)),
    Picture(
        "coins",
        "Brooklyn Museum, no known copyright restrictions",
        (
            ("coin", 25, 104, 67, 145),
            ("coin", 84, 107, 122, 145),
            ("coin", 134, 110, 174, 145),
            ("coin", 186, 105, 227, 144),
            ("coin", 245, 95, 296, 144),
            ("coin", 317, 105, 356, 145),
            ("coin", 18, 233, 75, 288),
            ("coin", 92, 245, 136, 287),
            ("coin", 144, 236, 201, 288),
            ("coin", 219, 240, 269, 288),
            ("coin", 276, 239, 326, 288),
            ("coin", 336, 248, 381, 289),
        ),
    ),
)


def read(name: str) -> NDArray[np.uint8]:
    """Give a photo as (H, W, 3) uint8 RGB; nothing is downloaded."""
    from skimage import data

    pixels: NDArray[np.uint8] = np.asarray(getattr(data, name)(), dtype=np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def write_source(folder: Path) -> None:
    """Write the photos and boxes as a COCO dataset, without masks; raise RunError where the folder holds something else."""
    path = folder / "annotations.json"
    if folder.exists() and not _ours(path):
        raise RunError(f"{folder}: holds something that the demo did not make; choose another folder: autopoly demo DIR")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    categories = sorted({box[0] for picture in PICTURES for box in picture.boxes})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(PICTURES, start=1):
        pixels = read(picture.name)
        file_name = f"{picture.name}.png"
        cv2.imwrite(str(folder / "images" / file_name), pixels[..., ::-1])
        height, width = pixels.shape[:2]
        images.append({"id": number, "file_name": file_name, "height": height, "width": width, "credit": picture.credit})
        for category, x1, y1, x2, y2 in picture.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories.index(category) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    document: dict[str, Any] = {
        "info": {"description": DESCRIPTION},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes())["info"]["description"] == DESCRIPTION)
    except (OSError, ValueError, KeyError, TypeError):
        return False
