"""Put the shipped checkpoints and recipes into the wheel, as ``autopoly/_data/``."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedData(BuildHookInterface[Any]):
    """Add ``checkpoints/`` and ``pipelines/`` to a wheel; an editable install reads them from the working tree instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the folders that exist; a checkout without weights still builds."""
        if version == "editable":
            return
        for name in ("checkpoints", "pipelines"):
            folder = Path(self.root) / name
            if folder.is_dir() and any(folder.iterdir()):
                build_data["force_include"][str(folder)] = f"autopoly/_data/{name}"
