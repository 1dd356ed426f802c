"""Turn detection boxes into instance polygons with SiamAnno, and measure the result.

>>> import autopoly
>>> autopoly.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopoly.predict import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loading the predictor costs seconds (torch); `import autopoly` and `autopoly --help` do without it.
    if name == "load":
        from autopoly.predict import load

        return load
    raise AttributeError(f"module 'autopoly' has no attribute {name!r}")
