# SPDX-License-Identifier: Apache-2.0
"""DALNet's meta-architecture: the paper's Figure 2, from photographs to losses or masks."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dalnet.layers import PixelAdaptiveRefinement
from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.boxes import token_grid_boxes
from dalnet.modeling.cam import cam_to_label, object_mask
from dalnet.modeling.class_token_contrast import ClassTokenContrast, build_class_contrast
from dalnet.modeling.clip import build_text_embeddings
from dalnet.modeling.heads import AlignmentProjections, CAMClassifier
from dalnet.modeling.image_classes import PresentClasses
from dalnet.modeling.losses.criterion import DALNetCriterion
from dalnet.modeling.multi_scale import Passes, PresentCAMs, crf_probabilities
from dalnet.modeling.pseudo_labels import local_view_labels, refine_shown
from dalnet.modeling.settings import InferenceSettings, LabelSettings, amp_dtype


@META_ARCH_REGISTRY.register()
class DALNet(nn.Module):
    """Weakly supervised semantic segmentation by dense image-text alignment (DIAL, ECCV 2024)."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        projections: AlignmentProjections | None,
        text_embeddings: tuple[Tensor, Tensor] | None,
        class_contrast: ClassTokenContrast | None,
        criterion: DALNetCriterion,
        par: PixelAdaptiveRefinement,
        num_classes: int,
        label_settings: LabelSettings,
        inference_settings: InferenceSettings,
        seg_start_iter: int,
        amp_dtype: torch.dtype,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        """Put the parts together.

        Args:
            backbone: returns ``cls_token`` [N, D], ``patch_tokens`` and ``inter_tokens``
                [N, D, h, w].
            sem_seg_head: maps the backbone's dict to logits [N, C + 1, h, w].
            projections: of tokens and texts into the common space; None without alignment.
            text_embeddings: foreground [C, d_t] and background [1, d_t]; None without alignment.
            class_contrast: ToCo's projections of class tokens; None without L_ctc.
            criterion: the weighted losses.
            par: refines CAMs into pseudo labels.
            num_classes: C, foreground classes.
            label_settings: how CAMs become masks and labels.
            inference_settings: what is computed in evaluation.
            seg_start_iter: first iteration, counted from 0, with L_seg and L_reg.
            amp_dtype: of the matrix products where the trainer has switched autocast on.
            pixel_mean, pixel_std: per channel, RGB in 0..255.
        """
        super().__init__()
        self.backbone = backbone
        self.classifier = CAMClassifier(backbone.embed_dim, num_classes)
        self.inter_classifier = CAMClassifier(backbone.embed_dim, num_classes)
        self.sem_seg_head = sem_seg_head
        self.projections = projections
        self.class_contrast = class_contrast
        self.criterion = criterion
        self.par = par
        self.num_classes = num_classes
        self.label_settings = label_settings
        self.inference_settings = inference_settings
        self.seg_start_iter = seg_start_iter
        self.amp_dtype = amp_dtype
        text_fg, text_bg = text_embeddings or (None, None)
        self.register_buffer("text_fg", text_fg)
        self.register_buffer("text_bg", text_bg)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        # A hook that wants pictures of a training step sets keep_snapshot before it.
        self.keep_snapshot = False
        self.snapshot: dict[str, Tensor] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build the parts that ``cfg`` describes."""
        method = cfg.MODEL.DALNET
        backbone = build_backbone(cfg)
        criterion = DALNetCriterion(cfg)
        projections = text_embeddings = None
        if criterion.aligns:
            text_embeddings = build_text_embeddings(_with_class_names(cfg))
            projections = AlignmentProjections(
                backbone.embed_dim,
                cfg.MODEL.CLIP.EMBED_DIM,
                method.PROJECTION_DIM,
                method.TEXT_PROJECTION,
            )
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "projections": projections,
            "text_embeddings": text_embeddings,
            "class_contrast": build_class_contrast(cfg, backbone.embed_dim),
            "criterion": criterion,
            "par": PixelAdaptiveRefinement(method.PAR.NUM_ITERS, tuple(method.PAR.DILATIONS)),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1,
            "label_settings": LabelSettings.from_config(cfg),
            "inference_settings": InferenceSettings.from_config(cfg),
            "seg_start_iter": method.SEG_START_ITER,
            "amp_dtype": amp_dtype(cfg),
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
        }

    @property
    def device(self) -> torch.device:
        """Where the model lies; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, scores in evaluation.

        Args:
            batched_inputs: dicts of ``dalnet.data.DALNetMapper``. Evaluation needs ``image``
                [3, H, W], RGB in 0..255, and uses ``height`` and ``width`` (the wanted size) and
                ``image_labels`` [C] where they are given.

        Returns:
            In training a dict of weighted scalar losses. In evaluation one dict per image:
            ``sem_seg`` [C + 1, height, width], class probabilities; and, where image labels are
            given, ``cam`` and ``cam_inter`` [C, height, width] in 0..1, zero for absent classes,
            and ``pseudo_label`` [height, width], long, with the ignore value.
        """
        if not self.training:
            return [self._infer(item) for item in batched_inputs]
        batch = TrainingBatch.collate(batched_inputs, self.device)
        # Chosen here because the AMPTrainer of Detectron2 0.5 knows float16 only.
        kind = self.device.type
        enabled = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype=self.amp_dtype, enabled=enabled):
            return self._losses(batch)

    def _losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The training step of Figure 2, top to bottom."""
        images = self._normalize(batch.pixels)
        tokens = self.backbone(images)
        losses = self.criterion.classification(
            self.classifier.logits(tokens["patch_tokens"]),
            self.inter_classifier.logits(tokens["inter_tokens"]),
            batch.labels,
        )
        cams = self._multi_scale_cams(batch, images, tokens)
        # Class tokens [N, G, D] of the main view and the further global views.
        global_tokens = tokens["cls_token"][:, None]
        if self.criterion.gia or self.class_contrast is not None:
            global_tokens = torch.cat([global_tokens, self._further_tokens(batch)], dim=1)
        if self.criterion.aligns:
            losses.update(self._align(batch, tokens, global_tokens, cams))
        if self.class_contrast is not None:
            losses.update(self._contrast_class_tokens(batch, global_tokens, cams))
        if self.criterion.weights["ptc"] > 0:
            token_labels = self._token_labels(cams, tokens["inter_tokens"].shape[-2:], batch)
            losses.update(self.criterion.contrast(tokens["patch_tokens"], token_labels))
        losses.update(self._segment(batch, tokens, cams))
        return losses

    def _normalize(self, pixels: Tensor) -> Tensor:
        return (pixels - self.pixel_mean) / self.pixel_std

    def _multi_scale_cams(
        self, batch: TrainingBatch, images: Tensor, tokens: dict[str, Tensor]
    ) -> PresentCAMs:
        """CAMs of ``images``, whose plain ``tokens`` at scale 1 exist; nothing is computed yet."""
        passes = self._passes(images)
        passes.take_over(tokens)
        return PresentCAMs(passes, batch.present, self.label_settings.scales)

    def _align(
        self,
        batch: TrainingBatch,
        tokens: dict[str, Tensor],
        global_tokens: Tensor,
        cams: PresentCAMs,
    ) -> dict[str, Tensor]:
        """L_im over the class tokens of all views, L_ex over the main view's patch tokens."""
        text = self.projections.text(self.text_fg), self.projections.text(self.text_bg)
        losses = {}
        if self.criterion.gia:
            cls_tokens, *labels = self._view_tokens(batch, global_tokens, cams)
            cls_tokens = self.projections.visual(cls_tokens)
            losses.update(self.criterion.implicit_alignment(cls_tokens, text, *labels))
        if self.criterion.lea:
            raw = self.inter_classifier.cam(tokens["inter_tokens"])
            threshold = self.label_settings.object_mask_threshold
            mask = object_mask(raw, batch.labels, threshold).flatten(1)
            # Patches in the padding count among the N^2 of Eq. 6: the paper knows no padding [D].
            patch_tokens = tokens["patch_tokens"].flatten(2).transpose(1, 2)
            patch_tokens = self.projections.visual(patch_tokens)
            losses.update(self.criterion.explicit_alignment(patch_tokens, mask, text, batch.labels))
        return losses

    def _further_tokens(self, batch: TrainingBatch) -> Tensor:
        """Class tokens [N, G - 1, D] of the global views beside the main one."""
        number = batch.global_views.shape[:2]
        if not number[1]:
            return self.pixel_mean.new_empty(*number, self.backbone.embed_dim)
        views = self._normalize(batch.global_views.flatten(0, 1))
        return self.backbone(views)["cls_token"].unflatten(0, number)

    def _view_tokens(
        self, batch: TrainingBatch, global_tokens: Tensor, cams: PresentCAMs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class tokens [V, D] of global and local views, their labels [V, C] and weights [V].

        Every view is one sample of Eq. 3, whatever image it comes from [D]; a local view without
        any class is a background view, which has the weight 0.
        """
        tokens = [global_tokens.flatten(0, 1)]
        labels = [batch.labels.repeat_interleave(global_tokens.shape[1], dim=0)]
        counted = [labels[0].new_ones(len(labels[0]))]
        if batch.local_views.shape[1]:
            views = self._normalize(batch.local_views.flatten(0, 1))
            tokens.append(self.backbone(views)["cls_token"])
            labels.append(self._local_labels(batch, cams).flatten(0, 1))
            counted.append(labels[-1].amax(dim=1))
        return torch.cat(tokens), torch.cat(labels), torch.cat(counted)

    def _local_labels(self, batch: TrainingBatch, cams: PresentCAMs) -> Tensor:
        """Labels [N, L, C] of the local views: what the main view's CAM shows in their place."""
        slot_map = self._slot_map(cams.last, batch.present, batch.boxes)
        num_slots = batch.present.index.shape[1]
        coverage = self.label_settings.local_min_coverage
        labels = local_view_labels(slot_map, batch.local_boxes, num_slots, coverage)
        spread = batch.present.spread(labels.transpose(1, 2), self.num_classes)
        return spread.transpose(1, 2)

    def _contrast_class_tokens(
        self, batch: TrainingBatch, global_tokens: Tensor, cams: PresentCAMs
    ) -> dict[str, Tensor]:
        """ToCo's L_ctc: global views against crops around the intermediate CAM's unsure pixels."""
        crops, positive = self.class_contrast.crops(
            batch.local_source, cams.intermediate, batch.present.shown
        )
        views = self._normalize(crops.flatten(0, 1))
        local_tokens = self.backbone(views)["cls_token"].unflatten(0, positive.shape)
        loss = self.class_contrast(global_tokens, local_tokens, positive)
        return {"loss_ctc": self.criterion.weights["ctc"] * loss}

    def _slot_map(self, cams: Tensor, present: PresentClasses, boxes: Tensor) -> Tensor:
        """Label map [N, h, w] over the slots of ``present`` of their CAMs [N, K, h, w]."""
        settings = self.label_settings
        thresholds = settings.low, settings.high, settings.ignore_value
        return cam_to_label(cams, present.shown, boxes, *thresholds)

    def _token_labels(
        self, cams: PresentCAMs, grid: tuple[int, int], batch: TrainingBatch
    ) -> Tensor:
        """Label map [N, h, w] of the intermediate CAM at token resolution, for L_ptc.

        Its values are slots: L_ptc only asks which tokens of one image are alike.
        """
        boxes = token_grid_boxes(batch.boxes, batch.pixels.shape[-2:], grid)
        small = F.interpolate(cams.intermediate, size=grid, mode="bilinear", align_corners=False)
        return self._slot_map(small, batch.present, boxes)

    def pseudo_labels(self, pixels: Tensor, cams: Tensor, shown: Tensor, boxes: Tensor) -> Tensor:
        """Refine CAMs into label maps, see :func:`dalnet.modeling.pseudo_labels.refine_shown`.

        Args:
            pixels: photographs [N, 3, H, W], RGB in 0..255.
            cams: of the present classes, [N, K, H, W] in 0..1.
            shown: [N, K], 0 for a map whose class the image does not show.
            boxes: [N, 4], (y0, y1, x0, x1).

        Returns:
            [N, H, W], long, k + 1 for the class of map k, with the ignore value.
        """
        settings = self.label_settings
        thresholds = settings.low, settings.high, settings.ignore_value
        return refine_shown(self.par, pixels / 255, cams, shown, boxes, *thresholds)

    def _segment(
        self, batch: TrainingBatch, tokens: dict[str, Tensor], cams: PresentCAMs
    ) -> dict[str, Tensor]:
        """L_seg and L_reg against the refined pseudo labels, once their time has come."""
        logits = self.sem_seg_head(tokens)
        if not self.criterion.segments or get_event_storage().iter < self.seg_start_iter:
            # Keeps the head in the graph, which DistributedDataParallel asks of every parameter.
            return {"loss_seg": 0.0 * logits.sum()}
        present = batch.present
        slots = self.pseudo_labels(batch.pixels, cams.last, present.shown, batch.boxes)
        pseudo_labels = present.name(slots, self.label_settings.ignore_value)
        if self.keep_snapshot:
            self.snapshot = {
                "pixels": batch.pixels[0],
                "cam": present.spread(cams.last, self.num_classes)[0],
                "pseudo_label": pseudo_labels[0],
                "logits": logits[0].detach(),
            }
        return self.criterion.segmentation(batch.pixels, logits, pseudo_labels, batch.boxes)

    def passes(self, pixels: Tensor) -> Passes:
        """What evaluation reads from: ``sem_seg`` (logits), ``cam`` and ``cam_inter`` (raw).

        Args:
            pixels: photographs of one size [N, 3, H, W], RGB in 0..255.
        """
        return self._passes(self._normalize(pixels))

    def _passes(self, images: Tensor) -> Passes:
        maps = {
            "sem_seg": self.sem_seg_head,
            "cam": lambda tokens: self.classifier.cam(tokens["patch_tokens"]),
            "cam_inter": lambda tokens: self.inter_classifier.cam(tokens["inter_tokens"]),
        }
        return Passes(self.backbone, maps, images)

    @torch.no_grad()
    def _infer(self, item: dict) -> dict[str, Tensor]:
        """Scores of one photograph; one at a time, so that no other image changes them."""
        settings = self.inference_settings
        pixels = item["image"].to(self.device).float()[None]
        size = (item.get("height", pixels.shape[-2]), item.get("width", pixels.shape[-1]))
        passes = self.passes(pixels)
        result = {}
        if settings.cams and "image_labels" in item:
            present = PresentClasses.of(item["image_labels"][None]).to(self.device)
            # First, because it wants the mirror image of every scale.
            result = self._infer_cams(passes, pixels, present, size)
        probs = passes.probabilities("sem_seg", size, settings.scales, settings.flip)
        if settings.crf is not None:
            probs = crf_probabilities(pixels, probs, **settings.crf)
        return {"sem_seg": probs[0], **result}

    def _infer_cams(
        self, passes: Passes, pixels: Tensor, present: PresentClasses, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        settings = self.label_settings
        cams = PresentCAMs(passes, present, settings.scales)
        height, width = pixels.shape[-2:]
        boxes = torch.tensor([[0, height, 0, width]], device=self.device)
        slots = self.pseudo_labels(pixels, cams.last, present.shown, boxes)
        pseudo_label = present.name(slots, settings.ignore_value)[:, None].double()
        maps = torch.cat([cams.last, cams.intermediate])
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        cam, cam_inter = (present.spread(m[None], self.num_classes)[0] for m in maps)
        pseudo_label = F.interpolate(pseudo_label, size=size, mode="nearest")[0, 0].long()
        return {"cam": cam, "cam_inter": cam_inter, "pseudo_label": pseudo_label}


def _with_class_names(cfg: CfgNode) -> CfgNode:
    """Copy ``cfg`` and fill in the class names and prompt words of ``DATASETS.TRAIN``."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CLASS_NAMES = list(metadata.stuff_classes)
    cfg.MODEL.PROMPT_NAMES = list(metadata.prompt_names)
    return cfg
