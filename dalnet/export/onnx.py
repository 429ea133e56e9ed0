# SPDX-License-Identifier: Apache-2.0
"""Write a model as an ONNX file: images in, probabilities out, at one scale and without CRF."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from dalnet.errors import UsageError
from dalnet.io import atomic_write
from dalnet.modeling.meta_arch import WeakSegmentor

INPUT, OUTPUT = "images", "probabilities"
_MAX_PATCHES = 512  # along a side of the largest image


class ExportableSegmentor(nn.Module):
    """Returns probabilities ``[1, C + 1, H, W]`` of images ``[1, 3, H, W]``, RGB in 0..255."""

    def __init__(self, model: WeakSegmentor) -> None:
        """Wrap a model with a segmentation head.

        Raises:
            UsageError: the model has none.
        """
        super().__init__()
        if "sem_seg" not in model.sources:
            what = f"{type(model).__name__} has no segmentation head to export"
            raise UsageError(what, "weights", "train one on its label maps")
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities; H and W have to be multiples of the patch."""
        features = self.model.encode(self.model.normalize(images))
        logits = self.model.maps("sem_seg", features)
        size = images.shape[-2:]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(dim=1)


def patch_size(model: WeakSegmentor) -> int:
    """Return the number of pixels that height and width have to be multiples of."""
    return int(getattr(model.backbone, "patch_size", 1))


def export_onnx(model: WeakSegmentor, path: Path, min_size: int = 0) -> None:
    """Write a model as ONNX that takes images of any size in multiples of the patch.

    The file's metadata has ``class_names`` (JSON), ``multiple_of`` (the patch) and ``min_size``:
    pixels on the short side to which images were resized in evaluation, 0 for their own size.

    Args:
        model: with a segmentation head, in evaluation mode, on the CPU.
        path: the ``.onnx`` file.
        min_size: for the metadata.

    Raises:
        UsageError: no segmentation head, or the file cannot be written.
    """
    patch = patch_size(model)
    example = torch.zeros(1, 3, 12 * patch, 16 * patch)
    # Dimensions 2 and 3 of the images, height and width, are free.
    sides = {
        2 + i: patch * torch.export.Dim(n, min=2, max=_MAX_PATCHES) for i, n in enumerate("hw")
    }
    program = torch.export.export(
        ExportableSegmentor(model).eval(), (example,), dynamic_shapes={INPUT: sides}
    )
    exported = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert exported is not None  # only the older exporter returns nothing
    metadata = exported.model.metadata_props
    metadata["class_names"] = json.dumps(list(model.class_names), ensure_ascii=False)
    metadata["multiple_of"], metadata["min_size"] = str(patch), str(min_size)
    with atomic_write(path) as unfinished:
        exported.save(unfinished)


def quantize(path: Path, target: Path) -> None:
    """Write an ONNX model with 8-bit weights in its linear layers, for CPUs."""
    with atomic_write(target) as unfinished:
        quantize_dynamic(
            path, unfinished, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
        )


class OnnxSegmentor:
    """Runs an exported file on the CPU.

    Attributes:
        class_names: C + 1 names, background first.
    """

    def __init__(self, path: Path) -> None:
        """Open the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        about = self._session.get_modelmeta().custom_metadata_map
        self.class_names: list[str] = json.loads(about["class_names"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities ``[1, C + 1, H, W]`` of images, float32 ``[1, 3, H, W]``."""
        return self._session.run([OUTPUT], {INPUT: images})[0]


def compare(
    model: WeakSegmentor, files: Mapping[str, Path], images: Sequence[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Compare exported files with the model they were made of.

    Args:
        model: in evaluation mode, on the CPU.
        files: by name.
        images: RGB, uint8 ``[H, W, 3]``; each is resized to the nearest multiples of the patch.

    Returns:
        For each file by its name: the largest difference of a probability, the fraction of pixels
        with the same label, seconds per image, and megabytes. Seconds also of the model itself, as
        ``pytorch``.
    """
    patch, reference = patch_size(model), ExportableSegmentor(model).eval()
    inputs = [_fit(image, patch) for image in images]
    expected, seconds = _run(lambda x: reference(torch.from_numpy(x)).detach().numpy(), inputs)
    result: dict[str, dict[str, Any]] = {"pytorch": {"seconds_per_image": seconds}}
    for name, path in files.items():
        found, seconds = _run(OnnxSegmentor(path), inputs)
        pairs = list(zip(expected, found, strict=True))
        same = [(a.argmax(1) == b.argmax(1)).mean() for a, b in pairs]
        result[name] = {
            "largest_difference": float(max(np.abs(a - b).max() for a, b in pairs)),
            "same_label": float(np.mean(same)),
            "seconds_per_image": seconds,
            "megabytes": path.stat().st_size / 1e6,
        }
    return result


def _fit(image: np.ndarray, patch: int) -> np.ndarray:
    """Return float32 ``[1, 3, H, W]``, resized to the nearest multiples of the patch."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    size = [max(2, round(side / patch)) * patch for side in image.shape[:2]]
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False).numpy()


def _run(function: Any, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Return the results and the seconds an image; the first image runs once before, unmeasured."""
    with torch.no_grad():
        function(inputs[0])
        start = time.perf_counter()
        results = [function(one) for one in inputs]
    return results, (time.perf_counter() - start) / len(inputs)
