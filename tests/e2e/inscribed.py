"""A real but simple job for the tests: the ellipse inscribed in each box, its quality read from the pixels; and a dataset to run it on."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from autopoly.jobs.conversion.work import Network
from autopoly.types import Polygon

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 96


@dataclass
class Ellipse:
    polygons: tuple[Polygon, ...]
    quality: float


class Inscriber:
    """Draw ellipses: slowly, where a test needs time to kill it; and die, hang or stop at a picture with a certain top left pixel."""

    def __init__(self, pause, deadly, mood):
        self.pause, self.deadly, self.mood = pause, deadly, mood

    def predict(self, items, overlaps=False):
        time.sleep(self.pause)
        if any(image[0, 0].tolist() == self.deadly for image, _ in items):
            if self.mood == "hang":
                time.sleep(600)
            os.kill(os.getpid(), {"die": signal.SIGKILL, "stop": signal.SIGSTOP}[self.mood])
        return [[self.ellipse(image, box) for box in boxes] for image, boxes in items]

    def ellipse(self, image, box):
        x1, y1, x2, y2 = box
        angle = np.arange(24) * (2 * np.pi / 24)
        ring = np.stack([(x1 + x2) / 2 + np.cos(angle) * (x2 - x1) / 2, (y1 + y2) / 2 + np.sin(angle) * (y2 - y1) / 2], axis=1)
        inside = image[max(int(y1), 0) : int(np.ceil(y2)), max(int(x1), 0) : int(np.ceil(x2))]
        quality = float(inside.mean() / 255) if inside.size else 0.0
        height, width = image.shape[:2]
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            return Ellipse((), quality)
        return Ellipse((Polygon(ring),), quality)


def load(checkpoint, device, tolerance, threads):
    return Inscriber(**json.loads(checkpoint))


def network(pause=0.0, deadly=None, mood="die", fingerprint="inscribed-1"):
    return Network(load, fingerprint, json.dumps({"pause": pause, "deadly": deadly, "mood": mood}))


def make_dataset(folder: Path, images=40, boxes=5, seed=3) -> Path:
    """Write a COCO dataset of small crops of real pictures: annotations shuffled over the file, masks here and there, fields of its own."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    sources = [getattr(data, name)() for name in PICTURES]
    listed, annotations = [], []
    for index in range(images):
        picture = sources[index % len(sources)]
        y, x = (int(rng.integers(0, side - SIDE)) for side in picture.shape[:2])
        name = f"{index:04d}.png"
        cv2.imwrite(str(folder / "images" / name), picture[y : y + SIDE, x : x + SIDE, ::-1])
        listed.append({"id": 100 + index, "file_name": name, "height": SIDE, "width": SIDE, "camera": index % 3})
        for _ in range(boxes if index % 7 else 0):
            w, h = (float(v) for v in rng.integers(8, 40, 2))
            x1, y1 = float(rng.integers(0, SIDE - int(w))), float(rng.integers(0, SIDE - int(h)))
            one = {"image_id": 100 + index, "category_id": int(rng.choice([3, 7])), "bbox": [x1, y1, w, h], "iscrowd": 0, "colour": "red"}
            if rng.random() < 0.3:
                one["segmentation"] = [[x1, y1, x1 + w, y1, x1 + w, y1 + h, x1, y1 + h]]
                one["area"] = w * h
            annotations.append(one)
    rng.shuffle(annotations)
    for index, one in enumerate(annotations):
        one["id"] = 1000 + index
    categories = [{"id": 3, "name": "cup"}, {"id": 7, "name": "cat", "supercategory": "animal"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"info": {"year": 2020}, "images": listed, "annotations": annotations, "categories": categories}))
    return path


def change(path: Path, edit) -> None:
    """Edit the JSON of a dataset in place."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
