# SPDX-License-Identifier: Apache-2.0
"""Write a model as ONNX, images in and probabilities out, and measure the file beside the model."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.preprocess import quant_pre_process
from torch import Tensor, nn

from dalnet.errors import UsageError
from dalnet.evaluation.counts import confusion_matrix, mean_iou
from dalnet.io import atomic_write
from dalnet.modeling.meta_arch import WeakSegmentor

INPUT, OUTPUTS = "images", ("probabilities", "logits")
_MAX_PATCHES = 512  # along a side of the largest image


class ExportableSegmentor(nn.Module):
    """Returns probabilities and logits of images ``[1, 3, H, W]``, RGB in 0..255."""

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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities ``[1, C + 1, H, W]`` and the head's logits ``[1, C + 1, h, w]``.

        H and W have to be multiples of the patch.
        """
        features = self.model.encode(self.model.normalize(images))
        logits = self.model.maps("sem_seg", features)
        size = images.shape[-2:]
        enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return enlarged.softmax(dim=1), logits


def patch_size(model: WeakSegmentor) -> int:
    """Return the number of pixels that height and width have to be multiples of."""
    return int(getattr(model.backbone, "patch_size", 1))


def export_onnx(model: WeakSegmentor, path: Path, min_size: int = 0) -> None:
    """Write a model as ONNX that takes images of any size in multiples of the patch.

    The file's metadata has ``class_names`` (JSON), ``input`` (what the values of an image are),
    ``multiple_of`` (the patch) and ``min_size``: pixels on the short side to which images were
    resized in evaluation, 0 for their own size.

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
        program, dynamo=True, input_names=[INPUT], output_names=[*OUTPUTS], verbose=False
    )
    assert exported is not None  # only the older exporter returns nothing
    metadata = exported.model.metadata_props
    metadata["class_names"] = json.dumps(list(model.class_names), ensure_ascii=False)
    metadata["input"] = "upright RGB, 0 to 255, not normalized"
    metadata["multiple_of"], metadata["min_size"] = str(patch), str(min_size)
    with atomic_write(path) as unfinished:
        exported.save(unfinished)


def quantize(path: Path, target: Path) -> None:
    """Write an ONNX model with 8-bit weights in its linear layers, for CPUs.

    Each output channel has a scale of its own; activations get theirs image by image.
    """
    with atomic_write(target) as unfinished, TemporaryDirectory() as folder:
        # Shapes are noted in the file first, which the quantization asks for.
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            unfinished,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
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
        return self.run(images)[0]

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, and logits ``[1, C + 1, h, w]`` as the head gives them."""
        probabilities, logits = self._session.run([*OUTPUTS], {INPUT: images})
        return probabilities, logits


@dataclass
class _Measured:
    """What one form of the model has given so far; ``matrix`` counts pixels, see ``Counts``."""

    matrix: np.ndarray
    seconds: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)  # largest of a logit, image by image
    same: list[float] = field(default_factory=list)  # fraction of pixels, image by image

    def add_truth(self, logits: np.ndarray, truth: np.ndarray) -> None:
        """Count an image by its label map ``[H, W]``."""
        enlarged = F.interpolate(torch.from_numpy(logits), truth.shape, mode="bilinear")
        found = enlarged[0].argmax(dim=0).numpy()
        self.matrix += confusion_matrix(truth, found, len(self.matrix))

    def summarize(self) -> dict[str, float]:
        """Return what :func:`compare` does."""
        found = {"images_per_second": 1 / float(np.median(self.seconds))}
        if self.matrix.any():
            found["miou"] = mean_iou(self.matrix)
        if self.differences:
            found["logits_difference"] = max(self.differences)
            found["same_label"] = float(np.mean(self.same))
        return found


def compare(
    model: WeakSegmentor,
    files: Mapping[str, Path],
    images: Iterable[tuple[np.ndarray, np.ndarray | None]],
) -> dict[str, dict[str, float]]:
    """Compare exported files with the model they were made of, image by image in turn.

    Args:
        model: in evaluation mode, on the CPU.
        files: by name.
        images: each RGB, uint8 ``[H, W, 3]``, which is resized to the nearest multiples of the
            patch, and its label map of any size, 255 for ignored, or None.

    Returns:
        For the model, as ``pytorch``, and each file by its name: ``images_per_second`` (of the
        median time) and, where there are label maps, ``miou`` in percent. Files also have
        ``logits_difference`` (the largest), ``same_label`` (the fraction of pixels) and
        ``megabytes``.
    """
    patch, exportable = patch_size(model), ExportableSegmentor(model).eval()

    def run_model(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            probabilities, logits = exportable(torch.from_numpy(inputs))
        return probabilities.numpy(), logits.numpy()

    forms = {"pytorch": run_model, **{name: OnnxSegmentor(p).run for name, p in files.items()}}
    classes = len(model.class_names)
    measured = {name: _Measured(np.zeros((classes, classes + 1), np.int64)) for name in forms}
    for number, (image, truth) in enumerate(images):
        inputs = _fit(image, patch)
        for name, run in forms.items():
            if number == 0:
                run(inputs)  # the first run takes longer
            start = time.perf_counter()
            probabilities, logits = run(inputs)
            measured[name].seconds.append(time.perf_counter() - start)
            if name == "pytorch":
                expected, labels = logits, probabilities.argmax(1)
            else:
                measured[name].differences.append(float(np.abs(logits - expected).max()))
                measured[name].same.append(float((probabilities.argmax(1) == labels).mean()))
            if truth is not None:
                measured[name].add_truth(logits, truth)
    result = {name: one.summarize() for name, one in measured.items()}
    for name, path in files.items():
        result[name]["megabytes"] = path.stat().st_size / 1e6
    return result


def _fit(image: np.ndarray, patch: int) -> np.ndarray:
    """Return float32 ``[1, 3, H, W]``, resized to the nearest multiples of the patch."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    size = [max(2, round(side / patch)) * patch for side in image.shape[:2]]
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False).numpy()
