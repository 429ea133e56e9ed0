# SPDX-License-Identifier: Apache-2.0
"""What every weakly supervised system has in common: the interface that all commands talk to."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from dalnet.config import with_class_names
from dalnet.errors import UsageError
from dalnet.layers import PixelAdaptiveRefinement
from dalnet.modeling.batch import ImageBatch, TrainingBatch
from dalnet.modeling.class_rows import match_class_rows
from dalnet.modeling.cpu import use_onednn_products
from dalnet.modeling.image_classes import classes_of_labels
from dalnet.modeling.image_inference import ImageInference
from dalnet.modeling.multi_scale import CAMSettings, Features, MultiScaleFlip
from dalnet.modeling.pseudo_labels import refine_local

Batch = TypeVar("Batch", bound=ImageBatch)


@dataclass(frozen=True)
class Source:
    """One kind of prediction that a system can be measured on.

    Attributes:
        title: its name in tables.
        kind: "probabilities", whose maps are logits of C + 1 classes, background first; "cam",
            whose maps are raw CAMs of the C classes; "pseudo_label", made of the source "cam".
    """

    title: str
    kind: str

    @property
    def needs_labels(self) -> bool:
        """Whether it is computed from an image's classes, which have to be given."""
        return self.kind != "probabilities"


@dataclass(frozen=True)
class InferenceSettings:
    """What ``forward`` computes in evaluation.

    Attributes:
        scales, flip: passes that probabilities are averaged over.
        crf: keyword arguments of the dense CRF, or None for none.
        cams: also return CAMs and pseudo labels where image-level labels are given.
    """

    scales: tuple[float, ...]
    flip: bool
    crf: dict[str, Any] | None
    cams: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "InferenceSettings":
        """Read ``TEST``."""
        multi_scale = cfg.TEST.MULTI_SCALE
        return cls(
            scales=tuple(multi_scale.SCALES) if multi_scale.ENABLED else (1.0,),
            flip=multi_scale.ENABLED and multi_scale.FLIP,
            crf=crf_parameters(cfg) if cfg.TEST.CRF.ENABLED else None,
            cams=cfg.TEST.EVAL_CAM,
        )


def crf_parameters(cfg: CfgNode) -> dict[str, Any]:
    """Return the keyword arguments of :func:`dalnet.layers.dense_crf` in ``TEST.CRF``."""
    other = ("ENABLED", "BACKEND")
    return {key.lower(): value for key, value in cfg.TEST.CRF.items() if key not in other}


class WeakSegmentor(nn.Module, Generic[Batch], metaclass=ABCMeta):
    """A network that learns to outline classes from image-level labels.

    A system brings ``sources``, :meth:`encode`, :meth:`maps`, :meth:`losses` and a ``backbone``,
    which learns at a rate of its own. Normalization, scales and flip, pseudo labels and inference
    are here.

    Attributes:
        class_names: C + 1 names, background first; label i is ``class_names[i]``.
        sources: by name, what the system predicts, in the order of tables.
        cam_settings: how raw maps become CAMs and label maps.
        inference_settings: what ``forward`` computes in evaluation.
    """

    # What a training batch consists of; the same type as the parameter Batch.
    batch_type: ClassVar[type[ImageBatch]] = TrainingBatch
    # Prefixes of the parameters that a checkpoint must hold for another training to start from it.
    required: ClassVar[tuple[str, ...]] = ("backbone.",)
    # Buffers that a training makes anew for its own classes, whatever a checkpoint holds.
    rebuilt: ClassVar[tuple[str, ...]] = ()
    # Tensors with a row for each class, by name, and the class of their row 0: 0 where that is the
    # background, else 1. See dalnet.modeling.class_rows.match_class_rows.
    class_rows: ClassVar[Mapping[str, int]] = {}
    # Whether a checkpoint that another training starts from must be of the same classes.
    keeps_classes: ClassVar[bool] = False
    # Pixels of the image for each cell of the maps, see dalnet.modeling.cam.fuse_raw_cams.
    map_stride: int = 1

    sources: Mapping[str, Source]
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        par: PixelAdaptiveRefinement,
        cam_settings: CAMSettings,
        inference_settings: InferenceSettings,
        amp_dtype: torch.dtype,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            class_names: C + 1 names, background first.
            par: refines CAMs into pseudo labels.
            cam_settings: how raw maps become CAMs and label maps.
            inference_settings: what is computed in evaluation.
            amp_dtype: of the matrix products where the trainer has switched autocast on.
            pixel_mean, pixel_std: per channel, RGB in 0..255.
        """
        super().__init__()
        use_onednn_products()
        self.class_names = tuple(class_names)
        self.par = par
        self.cam_settings = cam_settings
        self.inference_settings = inference_settings
        self.amp_dtype = amp_dtype
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def shared_arguments(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments that ``cfg`` describes alike for every system."""
        return {
            "class_names": tuple(with_class_names(cfg).MODEL.CLASS_NAMES),
            "par": PixelAdaptiveRefinement(cfg.MODEL.PAR.NUM_ITERS, tuple(cfg.MODEL.PAR.DILATIONS)),
            "cam_settings": CAMSettings.from_config(cfg),
            "inference_settings": InferenceSettings.from_config(cfg),
            "amp_dtype": amp_dtype(cfg),
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
        }

    @abstractmethod
    def encode(self, images: Tensor) -> Features:
        """Encode normalized images ``[N, 3, H, W]``; the maps are read from what it returns."""

    @abstractmethod
    def maps(self, source: str, features: Features) -> Tensor:
        """Return the raw maps ``[N, K, h, w]`` of a source that is not a pseudo label."""

    def image_logits(self, features: Features) -> Tensor:
        """Return ``[N, C]``, how much each image looks as if it showed a class.

        The largest value of each raw CAM, unless a system has a classifier of images.
        """
        return self.maps("cam", features).amax(dim=(2, 3))

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted scalar losses of a batch, by name."""

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Predict the classes ``names`` from now on; only open-vocabulary systems can.

        Raises:
            UsageError: the system knows the classes of its training and no others.
        """
        if tuple(names) != self.class_names[1:]:
            raise UsageError(
                f"{type(self).__name__} knows the classes it was trained on and no others",
                where="names",
                hint=f"these are {', '.join(self.class_names[1:])}",
            )

    def withheld_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the step now under way has to leave as they are.

        Each needs a gradient nevertheless, if only of zeros: processes exchange gradients of all
        parameters at every step, or of none.
        """
        return ()

    def take_class_rows(
        self, state: dict[str, Tensor], class_names: Sequence[str] | None
    ) -> list[str]:
        """Prepare a checkpoint's ``state`` for a training with the classes of this model.

        Args:
            state: changed in place: rows of ``class_rows`` are matched by class name.
            class_names: C' + 1 names of the checkpoint, background first; None if unknown.

        Returns:
            The classes whose rows come from the checkpoint.
        """
        own = self.state_dict()
        return match_class_rows(state, own, self.class_rows, class_names, self.class_names)

    @property
    def num_classes(self) -> int:
        """C, the number of classes without background."""
        return len(self.class_names) - 1

    @property
    def device(self) -> torch.device:
        """Where the model lies; inputs are moved there."""
        return self.pixel_mean.device

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images ``[..., 3, H, W]``, RGB in 0..255, by the pre-training's statistics."""
        return (images - self.pixel_mean) / self.pixel_std

    def multi_scale_flip(self, normalized: Tensor) -> MultiScaleFlip:
        """Return the encoder's passes over normalized images ``[N, 3, H, W]``; none has run yet."""
        return MultiScaleFlip(
            self.encode, self._maps_of_known, normalized, self.cam_settings, self.map_stride
        )

    def _maps_of_known(self, source: str, features: Features) -> Tensor:
        """Return :meth:`maps`, which need not ask whether the system has the source."""
        if source not in self.sources:
            known = ", ".join(self.sources)
            what = f"{type(self).__name__} has no {source!r}"
            raise UsageError(what, "source", f"it has {known}")
        return self.maps(source, features)

    def pseudo_labels(self, images: Tensor, cams: Tensor, valid: Tensor, boxes: Tensor) -> Tensor:
        """Refine CAMs into label maps, see :func:`dalnet.modeling.pseudo_labels.refine_local`.

        Args:
            images: ``[N, 3, H, W]``, RGB in 0..255.
            cams: of each image's classes, ``[N, K, H, W]`` in 0..1.
            valid: ``[N, K]``, 0 for a map whose class the image does not show.
            boxes: ``[N, 4]``, (y0, y1, x0, x1).

        Returns:
            ``[N, H, W]``, long, k + 1 for the class of map k, with the ignore value.
        """
        thresholds = self.cam_settings.label_thresholds
        return refine_local(self.par, images / 255, cams, valid, boxes, **thresholds)

    def infer(
        self, images: Tensor, size: tuple[int, int], image_classes: Sequence[int] = ()
    ) -> ImageInference:
        """Return what the model says about one image; nothing of it is computed yet.

        Args:
            images: ``[1, 3, h, w]``, RGB in 0..255, on the model's device.
            size: (H, W) of the results.
            image_classes: the classes, 0..C-1, that CAMs and pseudo labels are made of.
        """
        (one,) = self.infer_batch(images, size, image_classes)
        return one

    def infer_record(
        self, record: Mapping[str, Any], image_classes: Sequence[int] = ()
    ) -> ImageInference:
        """Return what the model says about the image of a record, as :meth:`infer`.

        Args:
            record: of the test mapper, with ``image`` ``[3, h, w]``, RGB in 0..255; ``height`` and
                ``width`` are the size of the results, where not given that of ``image``.
            image_classes: as for :meth:`infer`.
        """
        images = record["image"].to(self.device).float()[None]
        size = (record.get("height", images.shape[-2]), record.get("width", images.shape[-1]))
        return self.infer(images, size, image_classes)

    def infer_batch(
        self,
        images: Tensor,
        size: tuple[int, int],
        image_classes: Sequence[int] = (),
        views: Iterable[tuple[str, float, bool]] = (),
    ) -> list[ImageInference]:
        """Return what the model says about each of several images.

        Args:
            images: ``[N, 3, h, w]``, RGB in 0..255, on the model's device.
            size: (H, W) of the results.
            image_classes: of every image, as for :meth:`infer`.
            views: source, scale and flip of the passes that are made now, all images at once; what
                else is needed is computed later, image by image.
        """
        passes = self.multi_scale_flip(self.normalize(images))
        for view in views:
            passes.views(*view)
        return [
            ImageInference(
                passes.of_image(i), self.pseudo_labels, images[i : i + 1], size, image_classes
            )
            for i in range(len(images))
        ]

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training, predictions in evaluation.

        Args:
            batched_inputs: dicts of the mapper. Evaluation needs ``image`` ``[3, H, W]``, RGB in
                0..255, and uses ``height`` and ``width`` (the wanted size) and ``image_labels``
                ``[C]`` where they are given.

        Returns:
            In training a dict of weighted scalar losses. In evaluation one dict per image by
            source: probabilities ``[C + 1, height, width]`` and, where image-level labels are
            given, CAMs ``[C, height, width]`` in 0..1, zero for classes that the image does not
            show, and the pseudo label ``[height, width]``, long, with the ignore value.
        """
        if not self.training:
            return [self._predict(record) for record in batched_inputs]
        batch = self.batch_type.collate(batched_inputs, self.device)
        # Chosen here because the AMPTrainer of Detectron2 0.5 knows float16 only.
        kind = self.device.type
        enabled = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype=self.amp_dtype, enabled=enabled):
            return self.losses(cast(Batch, batch))

    @torch.no_grad()
    def _predict(self, record: dict) -> dict[str, Tensor]:
        """Predict one image; one at a time, so that no other image changes the result."""
        settings = self.inference_settings
        labels = record.get("image_labels") if settings.cams else None
        image = self.infer_record(record, classes_of_labels(labels))
        result: dict[str, Tensor] = {}
        # CAMs first, because they use the flipped copy of every scale: both are then one batch.
        for name, source in self.sources.items():
            if source.needs_labels and labels is not None:
                result[name] = self._predict_from_labels(image, name, source)
        for name, source in self.sources.items():
            if source.kind == "probabilities":
                probabilities = image.probabilities(settings.scales, settings.flip, name)
                if settings.crf is not None:
                    probabilities = image.refine_by_crf(probabilities, **settings.crf)
                result[name] = probabilities
        return result

    def _predict_from_labels(self, image: ImageInference, name: str, source: Source) -> Tensor:
        settings = self.cam_settings
        if source.kind == "pseudo_label":
            return image.pseudo_label(settings.scales, settings.with_flip)
        cams = image.cams(name, settings.scales, settings.with_flip)
        everywhere = cams.new_zeros(self.num_classes, *image.size)
        everywhere[list(image.image_classes)] = cams
        return everywhere


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """Return the data type that ``SOLVER.AMP.DTYPE`` names."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[cfg.SOLVER.AMP.DTYPE]
