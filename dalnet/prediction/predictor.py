# SPDX-License-Identifier: Apache-2.0
"""Predicts images on disk or in memory with a trained model."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalnet.checkpoint import config_for, load_model
from dalnet.config.validation import check_values
from dalnet.data.augmentation import resize_image
from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.image_io import read_image, to_rgb
from dalnet.data.mapper import build_resize
from dalnet.errors import UsageError
from dalnet.evaluation.scorer import label_map_of
from dalnet.evaluation.sources import require_sources
from dalnet.modeling.cam import cam_probabilities, cam_scores
from dalnet.modeling.image_inference import ImageInference
from dalnet.modeling.memory import is_out_of_memory
from dalnet.modeling.meta_arch import OpenVocabularySegmentor
from dalnet.modeling.meta_arch.segmentor import crf_parameters

from .prediction import Prediction, label_values
from .tiles import predict_tiles

ImageLike = str | os.PathLike | Image.Image | np.ndarray

_MIN_TILE = 64  # pixels


class Predictor:
    """Predicts images with a trained model; several threads may call it at once.

    ::

        predictor = Predictor("output/voc_dalnet/model_final.pth")
        prediction = predictor("dog.jpg", image_classes=["dog"])
        prediction.labels, prediction.cams["dog"], prediction.overlay()

    Neither the data set that the model was trained on nor pre-trained weights need to exist here.

    Attributes:
        cfg: of the model.
        class_names: C + 1 names, background first.
        is_open: whether other classes than those of the training can be looked for.
        has_cams: whether the system has CAMs.
        needs_image_classes: whether the classes that an image shows have to be given, because the
            system has no segmentation head.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        vocabulary: Sequence[str] | None = None,
        *,
        config: str | None = None,
        opts: Sequence[str] = (),
        multi_scale: bool | None = None,
        flip: bool | None = None,
        crf: bool | None = None,
        tile: int = 0,
    ) -> None:
        """Load a model, onto the GPU if there is one.

        Args:
            model: a checkpoint, the folder of its training, or an address that Detectron2's
                ``PathManager`` knows.
            vocabulary: the classes to look for, if the system is open-vocabulary.
            config: a config file, for a checkpoint of a version before 0.2, which holds no config.
            opts: ``KEY, VALUE, ...``, which replace values of the config.
            multi_scale: use the scales of ``TEST.MULTI_SCALE``, for CAMs those of ``MODEL.CAM``.
                None: as the config says.
            flip: also use the flipped image. None: as the config says.
            crf: refine the scores by the dense CRF. None: as the config says.
            tile: images with a side longer than this, in pixels, are predicted in overlapping
                tiles of this side, and have no CAMs then; 0 never cuts an image.

        Raises:
            UsageError: there is no such model, it does not fit its config, it does not know
                the vocabulary, or it cannot predict tiles.
        """
        self.cfg = cfg = config_for(os.fspath(model), config, opts)
        if not cfg.MODEL.CLASS_NAMES:
            raise UsageError(
                "the config names no classes",
                "DATASETS.TRAIN",
                "set it to the data set that the model was trained on, or MODEL.CLASS_NAMES to its "
                "classes, background first",
            )
        check_values(cfg)
        cfg.freeze()
        self._model = load_model(cfg).eval()
        require_sources(cfg, self._model.sources)
        self.is_open = isinstance(self._model, OpenVocabularySegmentor)
        self.set_vocabulary(self._model.class_names[1:] if vocabulary is None else vocabulary)
        self.has_cams = "cam" in self._model.sources
        self.needs_image_classes = "sem_seg" not in self._model.sources
        test, cam = cfg.TEST.MULTI_SCALE, self._model.cam_settings
        if multi_scale is None:
            multi_scale = test.ENABLED or self.needs_image_classes
        if flip is None:
            flip = cam.with_flip if self.needs_image_classes else test.ENABLED and test.FLIP
        self._flip = flip
        self._scales = tuple(test.SCALES) if multi_scale else (1.0,)
        self._cam_scales = cam.scales if multi_scale else (1.0,)
        self._crf = crf_parameters(cfg) if (cfg.TEST.CRF.ENABLED if crf is None else crf) else None
        self._resize = build_resize(cfg, is_train=False)
        self._tile = self._checked_tile(tile)

    def _checked_tile(self, tile: int) -> int:
        """Return the side of the tiles, or refuse it."""
        if tile and (tile < _MIN_TILE or self.needs_image_classes):
            what = f"tiles of {tile} pixels are too small"
            if self.needs_image_classes:
                what = f"{type(self._model).__name__} has no segmentation head, which tiles need"
            raise UsageError(what, "tile", f"use {_MIN_TILE} or more, or none")
        return tile

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Look for the classes ``names`` from now on.

        Raises:
            UsageError: the system is not open, a name cannot be asked for, or there are more than
                a label map holds.
        """
        if len(names) >= IGNORE_LABEL:
            hint = f"name less than {IGNORE_LABEL}, as label maps have 8 bits"
            raise UsageError(f"there are {len(names)} classes", "vocabulary", hint)
        self._model.set_vocabulary(names)
        self.class_names: tuple[str, ...] = tuple(self._model.class_names)

    @torch.no_grad()
    def __call__(self, image: ImageLike, image_classes: Sequence[str] | None = None) -> Prediction:
        """Predict one image.

        Args:
            image: a path, a PIL image, or RGB, uint8 ``[H, W, 3]``.
            image_classes: the classes to compute CAMs of, if the system has CAMs; where not given,
                those found in the image. A system without segmentation head needs them, because it
                finds no others.

        Raises:
            UsageError: the image cannot be read or used, a class is unknown, or memory ran out.
        """
        (prediction,) = self.predict_batch([image], image_classes)
        return prediction

    @torch.no_grad()
    def predict_batch(
        self, images: Sequence[ImageLike], image_classes: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Predict images of one size, which go through the network together.

        On a GPU that is quicker than one image at a time.

        Args:
            images, image_classes: as for one image; the classes are those of every image.

        Raises:
            UsageError: as for one image.
            ValueError: the images differ in size.
        """
        if image_classes is None and self.needs_image_classes:
            what = f"{type(self._model).__name__} finds only classes that it is told of"
            hint = f"name those that the image shows, of {', '.join(self.class_names[1:])}"
            raise UsageError(what, "image_classes", hint)
        values = label_values(self.class_names, image_classes or ())
        pixels = [_read(image) for image in images]
        if len({one.shape for one in pixels}) > 1:
            raise ValueError("the images of a batch differ in size")
        if self._tile and max(pixels[0].shape[:2]) > self._tile:
            return [self._predict_tiles(one) for one in pixels]
        with _memory_errors(pixels[0]):
            views = self._views(image_classes) if len(pixels) > 1 else []
            inferences = self._infer(pixels, values, views)
            pairs = zip(pixels, inferences, strict=True)
            return [self._predict(*pair, image_classes is None) for pair in pairs]

    def _views(self, image_classes: Sequence[str] | None) -> list[tuple[str, float, bool]]:
        """Return source, scale and flip of the passes that predictions are made of."""
        scales = {} if self.needs_image_classes else {"sem_seg": self._scales}
        if self.has_cams and image_classes != ():
            scales["cam"] = self._cam_scales
        return [(source, scale, self._flip) for source in scales for scale in scales[source]]

    def _predict(self, pixels: np.ndarray, inference: ImageInference, find: bool) -> Prediction:
        """Return the prediction of one image; ``find``: with the CAMs of the classes found."""
        scores = self._scores(inference)
        labels = label_map_of(scores)
        if find:
            # The encoder's passes are shared, and no CAM has been computed yet.
            values = np.unique(labels[labels > 0]).tolist()
            inference.image_classes = tuple(value - 1 for value in values)
        named_cams = {}
        if self.has_cams:
            names = [self.class_names[index + 1] for index in inference.image_classes]
            cams = inference.cams("cam", self._cam_scales, self._flip).cpu().numpy()
            named_cams = dict(zip(names, cams, strict=True))
        return Prediction(pixels, labels, scores.cpu().numpy(), named_cams, self.class_names)

    @torch.no_grad()
    def label(
        self, image: ImageLike, image_classes: Sequence[str], source: str = "sem_seg"
    ) -> Prediction:
        """Label one image whose classes are known: no other class takes part.

        Args:
            image: as for a prediction.
            image_classes: the classes that the image shows; if empty, all is background.
            source: "sem_seg", the segmentation head, or "cam", the CAMs; a system without head
                uses its CAMs in any case.

        Returns:
            The prediction; its scores add up to 1 over background and the image's classes and are
            0 for all others. It has no CAMs.

        Raises:
            UsageError: as for a prediction, or an unknown source.
        """
        if source not in ("sem_seg", "cam") or (source == "cam" and not self.has_cams):
            known = "sem_seg or cam" if self.has_cams else "sem_seg"
            raise UsageError(f"there is no source {source!r}", "source", f"use {known}")
        values = label_values(self.class_names, image_classes)
        pixels = _read(image)
        with _memory_errors(pixels):
            (inference,) = self._infer([pixels], values)
            local = self._local_scores(inference, values, source)
            if self._crf is not None and values:
                local = inference.refine_by_crf(local, **self._crf)
            scores = self._scatter(local, values)
            labels = label_map_of(scores)
            return Prediction(pixels, labels, scores.cpu().numpy(), {}, self.class_names)

    def _predict_tiles(self, pixels: np.ndarray) -> Prediction:
        def predict(part: np.ndarray) -> Tensor:
            (inference,) = self._infer([part], [])
            return self._scores(inference)

        with _memory_errors(pixels):
            scores = predict_tiles(predict, pixels, len(self.class_names), self._tile)
            labels = label_map_of(scores)
            return Prediction(pixels, labels, scores.numpy(), {}, self.class_names)

    def _local_scores(
        self, inference: ImageInference, values: Sequence[int], source: str
    ) -> Tensor:
        """Return probabilities ``[K + 1, H, W]`` of the background and of the image's classes."""
        if not values:
            return torch.ones(1, *inference.size, device=self._model.device)
        if source == "sem_seg" and not self.needs_image_classes:
            local = inference.probabilities(self._scales, self._flip)[[0, *values]]
            return local / local.sum(dim=0).clamp_min(1e-8)
        cams = inference.cams("cam", self._cam_scales, self._flip)
        return cam_probabilities(cams, self._model.cam_settings.background)

    def _infer(
        self,
        pixels: Sequence[np.ndarray],
        values: Sequence[int],
        views: Sequence[tuple[str, float, bool]] = (),
    ) -> list[ImageInference]:
        """Return what the model says about images of one size, each uint8 ``[H, W, 3]``."""
        resized = np.stack([resize_image(one, self._resize) for one in pixels])
        images = torch.from_numpy(np.ascontiguousarray(resized.transpose(0, 3, 1, 2)))
        images = images.to(self._model.device).float()
        classes = [value - 1 for value in values]
        return self._model.infer_batch(images, pixels[0].shape[:2], classes, views)

    def _scores(self, inference: ImageInference) -> Tensor:
        """Return scores ``[C + 1, H, W]``: the head's, or the CAMs' beside the background's."""
        if not self.needs_image_classes:
            scores = inference.probabilities(self._scales, self._flip)
            return scores if self._crf is None else inference.refine_by_crf(scores, **self._crf)
        cams = inference.cams("cam", self._cam_scales, self._flip)
        threshold = self._model.cam_settings.background
        if self._crf is None:
            local = cam_scores(cams, threshold)
        else:
            local = inference.refine_by_crf(cam_probabilities(cams, threshold), **self._crf)
        return self._scatter(local, [index + 1 for index in inference.image_classes])

    def _scatter(self, local: Tensor, values: Sequence[int]) -> Tensor:
        """Return scores ``[C + 1, H, W]``, 0 but for background and the labels ``values``."""
        scores = local.new_zeros(len(self.class_names), *local.shape[1:])
        scores[[0, *values]] = local
        return scores


def _read(image: ImageLike) -> np.ndarray:
    """Return RGB, uint8 ``[H, W, 3]``."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(os.fspath(image))
    if isinstance(image, Image.Image):
        return to_rgb(image)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        what = f"it is {image.dtype} {list(image.shape)}"
        raise UsageError(what, "image", "give RGB, uint8 [H, W, 3]")
    return image


@contextlib.contextmanager
def _memory_errors(pixels: np.ndarray) -> Iterator[None]:
    """Raise a ``UsageError`` where memory runs out: other images may be small enough."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"{pixels.shape[1]} x {pixels.shape[0]} pixels do not fit into memory"
        raise UsageError(what, "image", "make it smaller") from error
