"""Intersection over union of two masks, and its mean per category.

Masks are windows: any rectangle of the image that holds both masks gives the value of the whole image. Letters: N instances, C categories.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.types import FloatArray


def iou(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Give intersection over union of two (H, W) masks of zeros and ones over the same window; 0 where the union is empty."""
    if prediction.size == 0:
        return 0.0
    both = cv2.countNonZero(cv2.bitwise_and(prediction, truth))
    union = cv2.countNonZero(prediction) + cv2.countNonZero(truth) - both
    return both / union if union else 0.0


def category_means(values: FloatArray, categories: NDArray[np.int64], count: int) -> FloatArray:
    """Average (N,) ``values`` within each of ``count`` categories: (count,), NaN for a category without instances.

    The mean of the others is the mIoU.
    """
    members, sums = np.bincount(categories, minlength=count), np.bincount(categories, values, minlength=count)
    means = np.full(count, np.nan)
    means[members > 0] = sums[members > 0] / members[members > 0]
    return means
