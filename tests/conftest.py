"""What many tests need: the shared photos where they are, and a network that nobody has trained."""

import os
from pathlib import Path

import pytest

# Two processors must do for tests and whatever else runs; set before numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


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
