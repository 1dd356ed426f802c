"""What many tests need: the shared photos where they are, and a network that nobody has trained."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

# Two processors must do for tests and whatever else runs; set before numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Where tests run in the background, a shell has these ignored, and every child would inherit it.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    """A conversion takes all processors for the whole process; sums of the tests after it would differ in their last bits."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared():
    """Give the folder of photos with human masks (AUTOPOLY_SHARED, or ../shared/data); without it the test is skipped."""
    folder = Path(os.environ.get("AUTOPOLY_SHARED") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "eval").is_dir():
        pytest.skip(f"no photos with human masks in {folder}; set AUTOPOLY_SHARED")
    return folder


@pytest.fixture(scope="session")
def shipped():
    """Give the folder of the shipped checkpoint; a checkout without its weights skips the test."""
    from autopoly.errors import CheckpointError
    from autopoly.network import checkpoint

    try:
        return checkpoint.resolve(None)
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Give a checkpoint folder of a real but small network with random weights: all but the quality of its polygons can be tried on it."""
    import torch

    from autopoly.config import NetworkConfig
    from autopoly.network import checkpoint
    from autopoly.network.siamanno import SiamAnno

    torch.manual_seed(5)
    config = NetworkConfig(crop_side=96, vertices=64, width16=96, blocks16=1, width8=32, width4=16, head_width=32)
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    checkpoint.save(SiamAnno(config), folder, {"trained_on": "nothing"})
    return folder


@pytest.fixture(scope="session")
def ellipses(tmp_path_factory):
    """Write a dataset of bright ellipses on dark noise, some in two parts; truth is known in closed form."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("data") / "ellipses"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(40):
        picture = rng.integers(0, 60, (120, 160, 3), dtype=np.uint8)
        centre, radii = rng.uniform((40, 40), (120, 80)), rng.uniform(14, 36, 2)
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        rings = [centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radii]
        if number % 5 == 0:
            rings = [rings[0][(rings[0] - centre)[:, 0] * sign > 4] for sign in (1, -1)]
        for ring in rings:
            cv2.fillPoly(picture, [np.round((ring - 0.5) * 16).astype(np.int32)], (230, 200, 60), shift=4)
        points = np.concatenate(rings)
        low, high = points.min(0), points.max(0)
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "segmentation": [ring.reshape(-1).tolist() for ring in rings],
                "iscrowd": 0,
                "area": 1.0,
            }
        )
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture[..., ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "height": 120, "width": 160})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ellipse"}]}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder
