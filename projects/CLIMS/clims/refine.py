# SPDX-License-Identifier: Apache-2.0
"""Refine the CAMs of a split into label maps, as palette PNGs in the layout of VOC.

    python -m clims.refine --weights output/voc_clims --split voc_2012_sem_seg_train_aug \\
        --output output/voc_labels_crf
    dalnet train --config projects/CLIMS/configs/voc_clims_edges.yaml \\
        MODEL.CLIMS.EDGES.LABELS output/voc_labels_crf
    python -m clims.refine --weights output/voc_clims --split voc_2012_sem_seg_train_aug \\
        --output output/voc_labels_irn --refine irn --edges output/voc_clims_edges

--refine crf: confident labels, by a CRF at two thresholds; unsure pixels are ignored (255).
--refine par: pixel-adaptive refinement, then the CRF. --refine irn: IRNet's random walk along the
edges of a network trained on the first. Interrupted, the same command goes on. --measure compares
the label maps with the masks of the split, which nothing else here opens.
"""

import argparse
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from torch import Tensor
from tqdm import tqdm

from dalnet.checkpoint import checkpoint_hash, config_for, find_checkpoint, load_model
from dalnet.config import class_difference, with_class_names
from dalnet.config.load import flatten
from dalnet.data import build_test_loader
from dalnet.data.datasets.custom import CLASSES_FILE
from dalnet.data.image_io import read_image, read_mask, write_mask
from dalnet.data.labels import has_labels
from dalnet.documents import read_json, write_json
from dalnet.engine import setup
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.evaluation.counts import confusion_matrix, labeled_pixels, mean_iou
from dalnet.evaluation.crf import (
    CRFPool,
    CRFTask,
    choose_backend,
    pool_errors,
    require_workers,
)
from dalnet.evaluation.dump import LABEL_FOLDER, image_name, require_own_names
from dalnet.evaluation.scorer import label_probabilities
from dalnet.io import write_text
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.image_classes import classes_of_labels
from dalnet.modeling.image_inference import ImageInference
from dalnet.modeling.meta_arch import WeakSegmentor

from .affinity import random_walk
from .edges import GRID, EdgeNetwork

METHODS = ("crf", "par", "irn")

logger = logging.getLogger(__name__)

# Waits for what was begun, and returns the label map, uint8 [H, W].
Finish = Callable[[], np.ndarray]


class Refiner:
    """Refines the CAMs of images, by one of the methods."""

    def __init__(
        self, cfg: CfgNode, model: WeakSegmentor, pool: CRFPool, edges: EdgeNetwork | None = None
    ) -> None:
        """
        Args:
            cfg: whose ``MODEL.CLIMS.WALK`` is used.
            model: in evaluation mode.
            pool: runs the CRFs.
            edges: in evaluation mode, for the random walk.
        """
        self.model = model
        self.settings = model.cam_settings
        self.walk = cfg.MODEL.CLIMS.WALK
        self._pool, self._edges = pool, edges

    def start(self, image: ImageInference, method: str) -> Finish:
        """Begin to refine an image that shows some class."""
        begin = {"crf": self._confident, "par": self._refined_by_pixels, "irn": self._walked}
        return begin[method](image)

    def _cams(self, image: ImageInference, size: tuple[int, int] | None = None) -> Tensor:
        return image.cams("cam", self.settings.scales, self.settings.with_flip, size)

    def _confident(self, image: ImageInference) -> Finish:
        """CRFs on the CAMs' labels at two thresholds: sure classes, sure background, the rest."""
        cams = self._cams(image)
        thresholds = self.settings.high, self.settings.low
        label_maps = [label_cams(cams, image.image_classes, one) for one in thresholds]
        sure, possible = [self._crf(image, label_map) for label_map in label_maps]

        def finish() -> np.ndarray:
            found = sure()
            unsure = (found == 0) & (possible() > 0)
            return np.where(unsure, np.uint8(self.settings.ignore_value), found)

        return finish

    def _refined_by_pixels(self, image: ImageInference) -> Finish:
        label_map = image.pseudo_label(self.settings.scales, self.settings.with_flip)
        return self._crf(image, label_map)

    def _crf(self, image: ImageInference, label_map: Tensor) -> Finish:
        """Run the CRF on a label map, ignored pixels of which get a label too."""
        values = (0, *(c + 1 for c in image.image_classes))
        probabilities = label_probabilities(label_map, values).float().cpu().numpy()
        pixels = image.crf_images()[0].cpu().numpy()
        return self._pool.refine(CRFTask(pixels, probabilities, values)).result

    def _walked(self, image: ImageInference) -> Finish:
        """Random walk of the CAMs at a quarter of the image's size."""
        assert self._edges is not None
        size = (image.images.shape[-2], image.images.shape[-1])
        cams = self._cams(image, (math.ceil(size[0] / GRID), math.ceil(size[1] / GRID)))
        edges, walk = self._edges.edges(image.images), self.walk
        spread = random_walk(cams, edges, walk.RADIUS, walk.BETA, walk.STEPS)
        # Enlarged to whole places, cut, and brought to 0..1 by the largest value of all classes.
        large = F.interpolate(spread[None], scale_factor=GRID, mode="bilinear")
        large = large[0, :, : size[0], : size[1]]
        large = large / large.max().clamp(min=torch.finfo(large.dtype).tiny)
        label_map = label_cams(large, image.image_classes, walk.BACKGROUND_THRESHOLD)
        resized = F.interpolate(label_map[None, None].double(), size=image.size)[0, 0]
        return lambda: resized.to(torch.uint8).cpu().numpy()


def label_cams(cams: Tensor, image_classes: Sequence[int], threshold: float) -> Tensor:
    """Return the label map ``[H, W]``, long, of CAMs ``[K, H, W]`` of classes 0..C-1."""
    values = torch.tensor([0, *(c + 1 for c in image_classes)], device=cams.device)
    return values[cam_scores(cams, threshold).max(dim=0).indices]


def refine_split(
    cfg: CfgNode,
    split: str,
    output: Path,
    method: str = "crf",
    edges: str = "",
    workers: int = 1,
) -> None:
    """Write the label maps of all images of a split; those that are there are kept.

    An image that shows no class is all background; one of which nothing is known is ignored.

    Args:
        cfg: frozen, of the model ``MODEL.WEIGHTS``.
        split: a registered data set with image-level labels.
        output: gets ``SegmentationClass/<image>.png`` and ``ImageSets/Segmentation/<split>.txt``.
        method: one of :data:`METHODS`.
        edges: checkpoint or run folder of an edge network, for "irn".
        workers: processes for CRFs.

    Raises:
        UsageError: the model or the split cannot be used, the folder holds other label maps, or a
            process that refines has ended.
    """
    require_workers(workers)
    records = _read_split(cfg, split)
    model, edge_network = _load_cam_model(cfg), _load_edges(edges, cfg) if edges else None
    backend = choose_backend(cfg.TEST.CRF.BACKEND)
    _write_settings(output, _settings(cfg, split, method, edges, backend))
    left = [r for r in records if not _mask_path(output, r).is_file()]
    logger.info("%d of %d images are done already.", len(records) - len(left), len(records))
    parameters = {key.lower(): value for key, value in cfg.MODEL.CLIMS.CRF.items()}
    with pool_errors(), inference_context(model), CRFPool(workers, parameters, backend) as pool:
        refiner = Refiner(cfg, model, pool, edge_network)
        loader = build_test_loader(cfg, split, left) if left else ()
        _refine(refiner, loader, method, output, 2 * workers)
    names = MetadataCatalog.get(split).stuff_classes[1:]
    write_text(output / CLASSES_FILE, "".join(f"{name}\n" for name in names))
    path = output / "ImageSets" / "Segmentation" / f"{split}.txt"
    write_text(path, "".join(f"{image_name(r)}\n" for r in records))


def _read_split(cfg: CfgNode, split: str) -> list[dict[str, Any]]:
    """Return the records of a split after checks of its names, classes and image labels."""
    records: list[dict[str, Any]] = DatasetCatalog.get(split)
    require_own_names(split, records)
    # Label maps have the numbers of the model's classes, and are read as those of the split's.
    names = MetadataCatalog.get(split).stuff_classes
    if difference := class_difference(names, with_class_names(cfg).MODEL.CLASS_NAMES):
        hint = "name a split of the model's classes in their order"
        raise UsageError(f"its classes are not the model's: {difference}", split, hint)
    known = sum(map(has_labels, records))
    if not known:
        hint = "name a split with image labels"
        raise UsageError("what its images show is not known", split, hint)
    if known < len(records):
        what = "What %d of %d images show is not known: their label maps are 255, ignored."
        logger.warning(what, len(records) - known, len(records))
    return records


def _load_cam_model(cfg: CfgNode) -> WeakSegmentor:
    model = load_model(cfg)
    if "cam" not in model.sources:
        what = f"it is a checkpoint of {type(model).__name__}, which has no CAMs"
        raise UsageError(what, "weights", "name one of a network that has them")
    return model


@torch.no_grad()
def _refine(
    refiner: Refiner, loader: Iterable[Any], method: str, output: Path, most_waiting: int
) -> None:
    """Write the label maps of a loader's images; CRFs run beside the network."""
    waiting: deque[tuple[Path, Finish]] = deque()
    for (inputs,) in tqdm(loader, unit="image", disable=None):
        waiting.append((_mask_path(output, inputs), _start(refiner, inputs, method)))
        while len(waiting) > most_waiting:
            _write(*waiting.popleft())
    while waiting:
        _write(*waiting.popleft())


def _start(refiner: Refiner, inputs: dict[str, Any], method: str) -> Finish:
    classes = classes_of_labels(inputs.get("image_labels"))
    if not classes:
        value = 0 if "image_labels" in inputs else refiner.settings.ignore_value
        return lambda: np.full((inputs["height"], inputs["width"]), value, np.uint8)
    return refiner.start(refiner.model.infer_record(inputs, classes), method)


def _write(path: Path, finish: Finish) -> None:
    write_mask(path, finish())


def _mask_path(output: Path, record: dict[str, Any]) -> Path:
    return output / LABEL_FOLDER / f"{image_name(record)}.png"


def _settings(cfg: CfgNode, split: str, method: str, edges: str, backend: str) -> dict[str, Any]:
    """Return what label maps depend on: settings, and the hashes of the files that are read."""
    paths = [one for one in (cfg.MODEL.WEIGHTS, edges) if one]
    sizes = {key: cfg.INPUT[key] for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST")}
    own = cfg.MODEL.CLIMS
    nodes = {"cam": cfg.MODEL.CAM, "par": cfg.MODEL.PAR, "crf": own.CRF, "walk": own.WALK}
    return {
        "method": method,
        "split": split,
        "weights": [checkpoint_hash(str(find_checkpoint(path))) for path in paths],
        "backend": backend,
        **sizes,
        **{name: flatten(node) for name, node in nodes.items()},
    }


def _write_settings(output: Path, settings: dict[str, Any]) -> None:
    """Write what a folder's label maps are made from, so that no others are put beside them."""
    path = output / "refine.json"
    begun = any((output / LABEL_FOLDER).rglob("*.png"))
    # As they are read again: JSON has no tuples.
    if begun and path.is_file() and read_json(path) != json.loads(json.dumps(settings)):
        raise UsageError("it holds label maps of other settings", output, "name another folder")
    write_json(path, settings)


def _load_edges(path: str, cfg: CfgNode) -> EdgeNetwork:
    own = config_for(path, opts=("MODEL.DEVICE", cfg.MODEL.DEVICE))
    model = load_model(own).eval()
    if not isinstance(model, EdgeNetwork):
        raise UsageError(
            f"{path} is a checkpoint of {type(model).__name__}",
            where="edges",
            hint="name one of an edge network, as voc_clims_edges.yaml trains it",
        )
    if own.INPUT.MIN_SIZE_TEST != cfg.INPUT.MIN_SIZE_TEST:
        raise UsageError(
            f"it is {cfg.INPUT.MIN_SIZE_TEST}, but {path} finds edges in images of "
            f"{own.INPUT.MIN_SIZE_TEST}",
            where="INPUT.MIN_SIZE_TEST",
            hint="set it to that, and MODEL.CAM.SCALES so that CAMs are made as before",
        )
    return model


def measure(output: Path, split: str, ignore: int = 255) -> dict[str, float]:
    """Return ``miou`` and the percentage ``labeled`` of a folder's label maps, against the masks.

    Raises:
        UsageError: the split has no masks, or a label map is missing.
    """
    num_classes = len(MetadataCatalog.get(split).stuff_classes)
    matrix = np.zeros((num_classes, num_classes + 1), np.int64)
    for record in DatasetCatalog.get(split):
        if "sem_seg_file_name" not in record:
            raise UsageError("it has no masks to measure with", split, "do not measure")
        size = read_image(record["file_name"]).shape[:2]
        truth, found = (
            read_mask(str(path), size, num_classes, ignore)
            for path in (record["sem_seg_file_name"], _mask_path(output, record))
        )
        matrix += confusion_matrix(truth, found, num_classes, ignore)
    return {"miou": mean_iou(matrix), "labeled": labeled_pixels(matrix)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m clims.refine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE|DIR", help="checkpoint or folder of a training")
    add("--split", required=True, help="a registered data set with image-level labels")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the label maps")
    add("--refine", choices=METHODS, default="crf", help="default: %(default)s")
    add("--edges", default="", metavar="FILE|DIR", help="of an edge network, for --refine irn")
    cores = len(os.sched_getaffinity(0))
    add("--workers", type=int, default=cores, help="processes for CRFs (default: one a core)")
    add("--measure", action="store_true", help="print the mIoU against the masks of the split")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    args = parser.parse_args(argv)
    with one_sentence_errors(vars(args)):
        if (args.refine == "irn") != bool(args.edges):
            hint = "name an edge network for --refine irn, and for it alone"
            raise UsageError("it is missing, or of no use", "edges", hint)
        cfg = config_for(args.weights, opts=args.opts)
        cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (args.split,), str(args.output)
        setup(cfg, eval_only=True)
        refine_split(cfg, args.split, args.output, args.refine, args.edges, args.workers)
        print(f"written: {args.output}")
        if args.measure:
            found = measure(args.output, args.split, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
            print(f"mIoU {found['miou']:.1f}, {found['labeled']:.1f} % of the pixels labeled")


if __name__ == "__main__":
    main()
