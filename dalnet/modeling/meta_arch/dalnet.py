# SPDX-License-Identifier: Apache-2.0
"""DALNet's meta-architecture: the paper's Figure 2, from images to losses or maps."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.utils.comm import is_main_process
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dalnet.config import with_class_names
from dalnet.errors import UsageError
from dalnet.modeling.batch import MultiCropBatch
from dalnet.modeling.boxes import token_grid_boxes
from dalnet.modeling.cam import cam_to_label, object_mask
from dalnet.modeling.clip import build_text_embeddings
from dalnet.modeling.heads import AlignmentProjections, CAMClassifier
from dalnet.modeling.losses.counts import made_once
from dalnet.modeling.losses.criterion import DALNetCriterion
from dalnet.modeling.multi_scale import Features
from dalnet.modeling.pseudo_labels import local_view_labels
from dalnet.modeling.resize import resize
from dalnet.modeling.training_image import draw_training_image

from .segmentor import Source, WeakSegmentor


class CAMs(NamedTuple):
    """CAMs of each image's own classes, ``[N, K, H, W]`` in 0..1, without gradient.

    K is the largest number of classes in an image of the batch, see :class:`.ImageClasses`.

    Attributes:
        final: of the classifier on the last block's tokens.
        intermediate: of the classifier on the tokens of block ``MODEL.VIT.INTERMEDIATE_BLOCK``.
    """

    final: Tensor
    intermediate: Tensor


@META_ARCH_REGISTRY.register()
class DALNet(WeakSegmentor[MultiCropBatch]):
    """Weakly supervised semantic segmentation by dense image-text alignment (DIAL, ECCV 2024)."""

    batch_type = MultiCropBatch
    required = ("backbone.", "text_")
    rebuilt = ("text_fg", "text_bg")
    class_rows = {
        "classifier.linear.weight": 1,
        "inter_classifier.linear.weight": 1,
        "sem_seg_head.predictor.weight": 0,
        "sem_seg_head.predictor.bias": 0,
    }
    # Losses whose targets are made from multi-scale CAMs, beside those of the head.
    cam_losses: ClassVar[tuple[str, ...]] = ("gia", "ptc")
    sources = {
        "sem_seg": Source("segmentation head", "probabilities"),
        "cam": Source("CAM", "cam"),
        "cam_inter": Source("intermediate CAM", "cam"),
        "pseudo_label": Source("pseudo label", "pseudo_label"),
    }

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        projections: AlignmentProjections | None,
        text_embeddings: tuple[Tensor, Tensor] | None,
        criterion: DALNetCriterion,
        object_mask_threshold: float,
        local_min_coverage: float,
        zero_classifiers: bool,
        seg_start_iter: int,
        align_start_iter: int,
        vis_period: int = 0,
        **shared: Any,
    ) -> None:
        """
        Args:
            backbone: returns ``cls_token`` ``[N, D]``, ``patch_tokens`` and ``inter_tokens``
                ``[N, D, h, w]``.
            sem_seg_head: maps the backbone's dict to logits ``[N, C + 1, h, w]``.
            projections: of tokens and texts into the common space; None without alignment.
            text_embeddings: of the classes ``[C, d_t]`` and the background ``[1, d_t]``; None
                without alignment.
            criterion: the weighted losses.
            object_mask_threshold: beta of M_obj.
            local_min_coverage: fraction of a local view that a class must cover to be its label.
            zero_classifiers: whether the weights of the image classifiers start from zeros.
            seg_start_iter: first iteration, counted from 0, with L_seg and L_reg.
            align_start_iter: the same of L_im and L_ex.
            vis_period: iterations between drawings of a training image; 0 for none.
            shared: see :class:`WeakSegmentor`.
        """
        super().__init__(**shared)
        self.backbone = backbone
        sizes = backbone.embed_dim, self.num_classes
        self.classifier = CAMClassifier(*sizes, zero_weight=zero_classifiers)
        self.inter_classifier = CAMClassifier(*sizes, zero_weight=zero_classifiers)
        self.sem_seg_head = sem_seg_head
        self.projections = projections
        self.criterion = criterion
        self.object_mask_threshold = object_mask_threshold
        self.local_min_coverage = local_min_coverage
        self.seg_start_iter = seg_start_iter
        self.align_start_iter = align_start_iter
        self.vis_period = vis_period
        text_fg, text_bg = text_embeddings or (None, None)
        self.register_buffer("text_fg", text_fg)
        self.register_buffer("text_bg", text_bg)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that ``cfg`` describes.

        Raises:
            UsageError: a backbone without the tokens that the method works with.
        """
        cfg = with_class_names(cfg)
        method = cfg.MODEL.DALNET
        backbone = build_backbone(cfg)
        if (
            missing := {"cls_token", "patch_tokens", "inter_tokens"}
            - backbone.output_shape().keys()
        ):
            what = f"{cfg.MODEL.BACKBONE.NAME} gives no {min(missing)}"
            raise UsageError(what, "MODEL.BACKBONE.NAME", "set it to 'TimmViT'")
        criterion = DALNetCriterion(cfg)
        projections = text_embeddings = None
        if criterion.acts("gia", "lea"):
            text_embeddings = build_text_embeddings(cfg)
            projections = AlignmentProjections(
                backbone.embed_dim,
                cfg.MODEL.CLIP.EMBED_DIM,
                method.PROJECTION_DIM,
                method.TEXT_PROJECTION,
            )
        return {
            **cls.shared_arguments(cfg),
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "projections": projections,
            "text_embeddings": text_embeddings,
            "criterion": criterion,
            "object_mask_threshold": method.OBJECT_MASK_THRESHOLD,
            "local_min_coverage": method.LOCAL_MIN_COVERAGE,
            "zero_classifiers": method.CLASSIFIER_INIT == "zeros",
            "seg_start_iter": method.SEG_START_ITER,
            "align_start_iter": method.ALIGN_START_ITER,
            "vis_period": cfg.VIS_PERIOD,
        }

    def encode(self, images: Tensor) -> Features:
        """Return the encoder's tokens of normalized images ``[N, 3, H, W]``."""
        return self.backbone(images)

    def maps(self, source: str, features: Features) -> Tensor:
        """Return logits ``[N, C + 1, h, w]`` of the head, or raw CAMs ``[N, C, h, w]``."""
        if source == "sem_seg":
            return self.sem_seg_head(features)
        if source == "cam":
            return self.classifier.cam(features["patch_tokens"])
        return self.inter_classifier.cam(features["inter_tokens"])

    def image_logits(self, features: Features) -> Tensor:
        """Return the classifier's logits ``[N, C]``."""
        return self.classifier.logits(features["patch_tokens"])

    def losses(self, batch: MultiCropBatch) -> dict[str, Tensor]:
        """Return the losses of a training step: Figure 2, top to bottom.

        The two classifiers learn from the image-level labels (L_cls, L_inter). Their CAMs show
        roughly where each class is, and all other targets are made from these CAMs: which patches
        show an object (L_ex), which classes a small view shows (L_im), which patches have the same
        class (L_ptc), and the pixels' pseudo labels, from which the segmentation head learns
        (L_seg, L_reg).

        An image that shows no class is a negative for the classifiers and background for the head;
        L_im and L_ex leave it out of their mean. Where it is unknown whether an image shows a
        class, L_cls and L_inter leave out this class, and the other losses take it as not shown.
        """
        features = self.encode(self.normalize(batch.images))  # class, patch, intermediate tokens
        outputs = self.heads(features)  # image logits, segmentation logits
        targets = made_once(  # no gradient; multi_scale_cams takes two thirds of a step
            lambda: self.make_targets(batch, outputs, self.multi_scale_cams(batch, features))
        )
        outputs |= self.align(batch, features)  # tokens and texts in the common space
        losses = self.criterion(outputs, targets)  # Eq. 7 and 8
        if self.projections is not None and not self.aligns("gia", "lea"):
            losses |= self._idle_alignment(features)
        return losses

    def heads(self, features: Features) -> dict[str, Tensor]:
        """Return the tokens, the classifiers' logits and the segmentation logits."""
        patch_tokens, inter_tokens = features["patch_tokens"], features["inter_tokens"]
        return {
            "patch_tokens": patch_tokens,  # [N, D, h, w]
            "cls_logits": self.image_logits(features),  # [N, C]
            "inter_logits": self.inter_classifier.logits(inter_tokens),  # [N, C]
            "inter_tokens": inter_tokens,  # [N, D, h, w]
            "seg_logits": self.sem_seg_head(features),  # [N, C + 1, h, w]
        }

    @torch.no_grad()
    def multi_scale_cams(self, batch: MultiCropBatch, features: Features) -> CAMs | None:
        """Return the CAMs of both classifiers over all scales; None where no loss needs them.

        These passes through the encoder take two thirds of a training step.
        """
        if not (self.criterion.acts(*self.cam_losses) or self.trains_head()):
            return None
        passes = self.multi_scale_flip(self.normalize(batch.images))
        passes.reuse(features)  # the pass at scale 1 was already made
        settings = self.cam_settings
        scales = settings.scales, settings.with_flip
        return CAMs(
            passes.cams("cam", *scales, batch.image_classes),
            passes.cams("cam_inter", *scales, batch.image_classes),
        )

    def make_targets(
        self, batch: MultiCropBatch, outputs: dict[str, Tensor], cams: CAMs | None
    ) -> dict[str, Tensor]:
        """Return the targets of the losses that are used in this iteration, by name."""
        targets = {
            "images": batch.images,
            "boxes": batch.boxes,
            "image_labels": batch.image_labels,
            "known_labels": batch.known_labels,
            "image_weights": batch.shows_class,  # [N], 0 for images that L_ex leaves out
        }
        if self.aligns("lea"):
            raw = self.inter_classifier.cam(outputs["inter_tokens"].detach())  # [N, C, h, w]
            mask = object_mask(raw, batch.image_labels, self.object_mask_threshold)
            targets["object_mask"] = mask.flatten(1)  # [N, P]
        if cams is None:
            return targets
        if self.aligns("gia"):
            targets["view_labels"], targets["view_weights"] = self.view_labels(batch, cams.final)
        if self.criterion.acts("ptc"):
            grid = outputs["patch_tokens"].shape[-2:]
            targets["token_labels"] = self.token_labels(batch, cams.intermediate, grid)  # [N, h, w]
        if self.trains_head():
            targets["pseudo_labels"] = self.segmentation_targets(batch, cams.final)  # [N, H, W]
            self._draw(batch, cams.final, targets["pseudo_labels"], outputs["seg_logits"])
        return targets

    def align(self, batch: MultiCropBatch, features: Features) -> dict[str, Tensor]:
        """Return texts, class tokens of all views and patch tokens in the common space.

        Nothing before ``align_start_iter``, when no loss reads them.
        """
        outputs: dict[str, Tensor] = {}
        if self.projections is None or not self.aligns("gia", "lea"):
            return outputs
        outputs["text_fg"] = self.projections.text(self.text_fg)  # [C, d]
        outputs["text_bg"] = self.projections.text(self.text_bg)  # [1, d]
        if self.criterion.acts("gia"):
            cls_tokens = self.view_tokens(batch, features["cls_token"])
            outputs["view_tokens"] = self.projections.visual(cls_tokens)  # [V, d]
        if self.criterion.acts("lea"):
            # Eq. 6 divides by all N^2 patches. Those in the padding are counted too, because the
            # paper does not mention padding (docs/decisions.md).
            patches = features["patch_tokens"].flatten(2).transpose(1, 2)  # [N, P, D]
            outputs["aligned_patches"] = self.projections.visual(patches)  # [N, P, d]
        return outputs

    def aligns(self, *names: str) -> bool:
        """Return whether any of the alignment losses, by name, acts in this iteration."""
        acts = self.criterion.acts(*names)
        return acts and get_event_storage().iter >= self.align_start_iter

    def _idle_alignment(self, features: Features) -> dict[str, Tensor]:
        """Return losses of 0 with a gradient of zeros.

        DistributedDataParallel expects a gradient of every parameter.
        """
        assert self.projections is not None
        texts, tokens = self.projections.text(self.text_fg), features["cls_token"]
        zero = 0.0 * (self.projections.visual(tokens).sum() + texts.sum())
        return {f"loss_{name}": zero for name in ("gia", "lea") if self.criterion.acts(name)}

    def view_tokens(self, batch: MultiCropBatch, main: Tensor) -> Tensor:
        """Return class tokens ``[V, D]`` of all views of the batch.

        First come the global views, image by image, then the local ones: V = N * G + N * L.

        Args:
            batch: with G - 1 further global views and L local views of each image.
            main: class tokens of the main views, ``[N, D]``.
        """
        tokens = [self.global_tokens(batch, main).flatten(0, 1)]
        if batch.local_views.shape[1]:
            tokens.append(self.cls_tokens(batch.local_views).flatten(0, 1))
        return torch.cat(tokens)

    def global_tokens(self, batch: MultiCropBatch, main: Tensor) -> Tensor:
        """Return class tokens ``[N, G, D]`` of the main and the further global views."""
        tokens = main[:, None]
        if not batch.global_views.shape[1]:
            return tokens
        return torch.cat([tokens, self.cls_tokens(batch.global_views)], dim=1)

    def cls_tokens(self, views: Tensor) -> Tensor:
        """Return class tokens ``[N, L, D]`` of views ``[N, L, 3, S, S]``, RGB in 0..255."""
        features = self.encode(self.normalize(views.flatten(0, 1)))
        return features["cls_token"].unflatten(0, views.shape[:2])

    @torch.no_grad()
    def view_labels(self, batch: MultiCropBatch, cams: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels ``[V, C]`` and weights ``[V]`` of the views, in :meth:`view_tokens`' order.

        Every view is one sample of Eq. 3 (docs/decisions.md). A global view has the labels of its
        image. A local view has the classes that the main view's CAMs show inside its box. A view
        without any class has the weight 0.

        Args:
            batch: with the views.
            cams: of the main views, ``[N, K, H, W]``.
        """
        num_global = 1 + batch.global_views.shape[1]
        labels = [batch.image_labels.repeat_interleave(num_global, dim=0)]
        if batch.local_views.shape[1]:
            classes, coverage = batch.image_classes, self.local_min_coverage
            label_map = self._label_map(batch, cams, batch.boxes)
            most = classes.index.shape[1]  # K
            found = local_view_labels(label_map, batch.local_boxes, most, coverage)  # [N, L, K]
            # scatter() wants the classes in dimension 1: [N, L, K] -> [N, K, L] -> [N, C, L].
            found = classes.scatter(found.transpose(1, 2), self.num_classes).transpose(1, 2)
            labels.append(found.flatten(0, 1))
        view_labels = torch.cat(labels)
        return view_labels, view_labels.amax(dim=1)

    def token_labels(self, batch: MultiCropBatch, cams: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the label map ``[N, h, w]`` of CAMs ``[N, K, H, W]`` on the token grid, for L_ptc.

        Its values are local indices (:class:`.ImageClasses`), because L_ptc compares only tokens
        of the same image.
        """
        boxes = token_grid_boxes(batch.boxes, batch.images.shape[-2:], grid)
        return self._label_map(batch, resize(cams, grid), boxes)

    def _label_map(self, batch: MultiCropBatch, cams: Tensor, boxes: Tensor) -> Tensor:
        """Return the label map ``[N, h, w]`` over the local indices of CAMs ``[N, K, h, w]``."""
        thresholds = self.cam_settings.label_thresholds
        label_map = cam_to_label(cams, batch.image_classes.valid, boxes, **thresholds)
        return batch.ignore_unclear(label_map, self.cam_settings.ignore_value)

    def segmentation_targets(self, batch: MultiCropBatch, cams: Tensor) -> Tensor:
        """Return pseudo labels ``[N, H, W]`` made from CAMs ``[N, K, H, W]``.

        Where a person has corrected an image's mask, it is used instead of the pseudo label.
        """
        classes, ignore = batch.image_classes, self.cam_settings.ignore_value
        local = self.pseudo_labels(batch.images, cams, classes.valid, batch.boxes)
        labels = batch.ignore_unclear(classes.to_class_labels(local, ignore), ignore)
        if batch.corrected is None:
            return labels
        return torch.where(batch.corrected < 0, labels, batch.corrected.long())

    def trains_head(self) -> bool:
        """Return whether the segmentation head is trained in this iteration.

        It is not in the first ``seg_start_iter`` iterations, when the CAMs are still too poor.
        """
        acts = self.criterion.acts("seg", "reg")
        return acts and get_event_storage().iter >= self.seg_start_iter

    def _draw(self, batch: MultiCropBatch, cams: Tensor, label_map: Tensor, logits: Tensor) -> None:
        """Draw the first image, with its maps, into the event storage if that is due."""
        storage = get_event_storage()
        due = self.vis_period > 0 and (storage.iter + 1) % self.vis_period == 0
        # Only in the main process, because elsewhere no writer would empty the storage.
        if due and is_main_process():
            panels = draw_training_image(
                batch.images[0],
                cams[0] * batch.image_classes.valid[0][:, None, None],
                label_map[0],
                logits[0].detach(),
            )
            storage.put_image("image | CAM | pseudo label | prediction", panels)
