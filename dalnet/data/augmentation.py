# SPDX-License-Identifier: Apache-2.0
"""Change the size and the colors of an image.

Numbers: DINO (Caron et al., ICCV 2021), as ToCo (CVPR 2023) uses them. Detectron2's transforms
draw from numpy's generator, torchvision's from torch's; Detectron2 seeds both in every worker.
"""

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import ColorJitter, v2

from dalnet.errors import UsageError

_BLUR_SIGMA = (0.1, 2.0)  # standard deviation in pixels


class RandomRescale(T.Augmentation):
    """Enlarge or shrink an image by one factor for both sides, drawn uniformly from a range."""

    def __init__(self, scale_range: tuple[float, float]) -> None:
        super().__init__()
        self.scale_range = scale_range

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a factor for an image [H, W, 3]."""
        height, width = image.shape[:2]
        low, high = self.scale_range
        factor = np.random.uniform(low, high)
        new_height, new_width = (max(1, round(factor * side)) for side in (height, width))
        return T.ResizeTransform(height, width, new_height, new_width)


class RandomLongerSide(T.Augmentation):
    """Resize an image so that its longer side is an integer drawn uniformly from a range.

    Bicubic, as CLIMS does it (CVPR 2022).
    """

    def __init__(self, side_range: tuple[int, int]) -> None:
        super().__init__()
        self.side_range = side_range

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a side for an image [H, W, 3]."""
        height, width = image.shape[:2]
        low, high = self.side_range
        factor = np.random.randint(low, high + 1) / max(height, width)
        new_height, new_width = (max(1, round(factor * side)) for side in (height, width))
        return T.ResizeTransform(height, width, new_height, new_width, Image.Resampling.BICUBIC)


def blur(image: Image.Image) -> Image.Image:
    """Blur an RGB PIL image with a standard deviation drawn uniformly from 0.1 to 2 pixels.

    OpenCV's filter: it takes a tenth of the time of Pillow's, which DINO uses.
    """
    sigma = torch.empty(1).uniform_(*_BLUR_SIGMA).item()
    return Image.fromarray(cv2.GaussianBlur(np.asarray(image), (0, 0), sigma))


def jitter_colors(image: Image.Image) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order, by DINO's factors.

    As torchvision's ``ColorJitter`` on an RGB PIL image, but for the hue, which Pillow takes a
    dozen times as long for as OpenCV.
    """
    order, *factors = ColorJitter.get_params(
        brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.8, 1.2), hue=(-0.1, 0.1)
    )
    changes = (
        v2.functional.adjust_brightness,
        v2.functional.adjust_contrast,
        v2.functional.adjust_saturation,
        adjust_hue,
    )
    for index in order:
        image = changes[index](image, factors[index])
    return image


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turn the hue of an RGB PIL image by ``shift`` (-0.5..0.5) of the color circle."""
    hsv = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HSV_FULL)
    # The circle has 256 steps, and so has a byte.
    hsv[..., 0] += np.uint8(round(256 * shift) % 256)
    return Image.fromarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


def photometric_chain(
    enabled: bool, blur_prob: float, solarize_prob: float = 0.0
) -> torch.nn.Module:
    """Build color jitter, gray, blur and solarization of 8-bit RGB PIL images.

    Args:
        enabled: ``False`` builds the identity (``INPUT.PHOTOMETRIC``).
        blur_prob: probability of the blur.
        solarize_prob: probability of inverting the values from 128 up.
    """
    if not enabled:
        return v2.Identity()
    return v2.Compose(
        [
            v2.RandomApply([jitter_colors], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([blur], p=blur_prob),
            v2.RandomSolarize(threshold=128, p=solarize_prob),
        ]
    )


def resize_image(image: np.ndarray, resize: T.Augmentation) -> np.ndarray:
    """Resize an image, uint8 [H, W, 3], see :func:`get_resize`."""
    return get_resize(image, resize).apply_image(image)


def get_resize(image: np.ndarray, resize: T.Augmentation) -> T.Transform:
    """Draw how Detectron2's ``ResizeShortestEdge`` resizes an image, uint8 [H, W, 3].

    Raises:
        UsageError: it is so narrow that nothing would be left of its short side.
    """
    transform = resize.get_transform(image)
    if isinstance(transform, T.ResizeTransform) and not (transform.new_h and transform.new_w):
        raise UsageError(
            f"it is {image.shape[1]} x {image.shape[0]} pixels, of which resizing leaves no whole "
            "pixel across",
            where="image",
            hint="crop it",
        )
    return transform
