# SPDX-License-Identifier: Apache-2.0
"""Figure 4: image, truth and prediction."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dalnet.errors import UsageError

from .images import ImageResult
from .sheet import draw_sheet


def draw_segmentations(
    results: Sequence[ImageResult], split: str, colorblind: bool = False
) -> Figure:
    """Return the figure of a model's label maps; arguments as for ``draw_cams``.

    Raises:
        UsageError: an image without a prediction.
    """
    for result in results:
        if result.prediction is None:
            raise UsageError(
                f"The model labels pixels by image-level labels, and {result.name} has none; name "
                "an image that has some."
            )
    columns = ("image", "truth", "prediction")
    return draw_sheet(results, split, titles=columns, colorblind=colorblind)
