# SPDX-License-Identifier: Apache-2.0
"""What a ToyCLIP can do without further training, on objects that no training has shown."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context

import dalnet.data.datasets  # noqa: F401  (registers toy_val)
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.data.image_io import read_image, read_mask
from dalnet.evaluation.counts import confusion_matrix, mean_iou

from .batches import stack_images
from .captions import PROMPT
from .images import HELD_OUT_LOOKS, NO_CLASS, ToyImage, draw_bank, draw_image
from .toy_clip import ToyCLIP
from .words import ATTRIBUTE_WORDS, CLASS_WORDS, EMPTY_WORDS, GROUND_WORDS

logger = logging.getLogger(__name__)

SEED = 1_000_003  # of the evaluations' own objects and images
_CLASSES, _HELD_OUT = range(2)  # streams of random numbers


@torch.no_grad()
def evaluate(model: ToyCLIP, count: int = 600) -> dict[str, float]:
    """Return the percentage of images named right, by task, and the mIoU of patches; log both.

    Each word stands in "a photo of {}."; an image's name is the word whose embedding has the
    largest cosine with the image's.

    Args:
        model: is left in the mode that it has.
        count: images of each kind.
    """
    with inference_context(model):
        result = _evaluate_zero_shot(model, count)
        result["patches on toy_val (mIoU)"] = patch_miou(model)
    words = ", ".join(f"{name} {value:.1f}" for name, value in result.items())
    logger.info("named right in percent: %s", words)
    return result


def _evaluate_zero_shot(model: ToyCLIP, count: int) -> dict[str, float]:
    bank = draw_bank(np.random.default_rng((SEED, _CLASSES)), 1000, 50)
    rng = np.random.default_rng((SEED, _CLASSES, count))
    shapes, textures, palettes = ATTRIBUTE_WORDS
    single = [draw_image(rng, bank, "single") for _ in range(count)]
    scenes = [draw_image(rng, bank, "scene") for _ in range(count)]
    masked = [draw_image(rng, bank, "masked") for _ in range(2 * count)]
    masked = [image for image in masked if image.ground < 0]
    named, masked_named = map(_of_a_class, (single, masked))
    right = partial(_percent_right, model)
    return {
        "color (7)": right(single, [i.objects[0][3] for i in single], palettes, "{} object"),
        "ground (5)": right(scenes, [i.ground for i in scenes], GROUND_WORDS),
        "class of single object (10)": right(named, _classes(named), CLASS_WORDS),
        "class of masked object (10)": right(masked_named, _classes(masked_named), CLASS_WORDS),
        "shape (10)": right(single, [i.objects[0][1] for i in single], shapes),
        "texture (8)": right(single, [i.objects[0][2] for i in single], textures, "{} object"),
        f"unseen combination ({len(HELD_OUT_LOOKS)})": _held_out(model, count),
    }


def _of_a_class(images: Sequence[ToyImage]) -> list[ToyImage]:
    return [image for image in images if image.objects[0][0] != NO_CLASS]


def _classes(images: Sequence[ToyImage]) -> list[int]:
    return [image.objects[0][0] for image in images]


def _held_out(model: ToyCLIP, count: int) -> float:
    """Name objects of looks that were left out, by "color texture shape", among all such looks."""
    rng = np.random.default_rng((SEED, _HELD_OUT))
    bank = draw_bank(rng, 1000, 50, HELD_OUT_LOOKS)
    images = [draw_image(rng, bank, "single") for _ in range(2 * count)]
    images = [image for image in images if image.objects[0][0] == NO_CLASS]
    words = [
        [w[v][0] for w, v in zip(ATTRIBUTE_WORDS, look, strict=True)] for look in HELD_OUT_LOOKS
    ]
    names = [(f"{palette} {texture} {shape}",) for shape, texture, palette in words]
    targets = [HELD_OUT_LOOKS.index(image.objects[0][1:]) for image in images]
    return _percent_right(model, images, targets, names)


def _percent_right(
    model: ToyCLIP,
    images: Sequence[ToyImage],
    targets: Sequence[int],
    words: Sequence[Sequence[str]],
    phrase: str = "{}",
) -> float:
    texts = embed_words(model, [phrase.replace("{}", usual) for usual, *_ in words])
    chosen = (embed_images(model, images) @ texts.T).argmax(dim=1)
    return 100 * float((chosen == torch.tensor(targets)).float().mean())


def embed_images(model: ToyCLIP, images: Sequence[ToyImage]) -> torch.Tensor:
    """Return the embeddings ``[N, 128]`` of the images, rows of length one."""
    return model.encode_images(stack_images([image.image for image in images]))


def embed_words(model: ToyCLIP, words: Sequence[str]) -> torch.Tensor:
    """Return the embeddings ``[K, 128]`` of "a photo of WORD.", rows of length one."""
    return model.encode_sentences([PROMPT.replace("{}", word) for word in words])


def patch_miou(model: ToyCLIP) -> float:
    """Return the mIoU in percent on ``toy_val`` of the nearest text of each patch.

    The texts are those of "background" and of all ten classes; the image's labels are not used.
    Cosines are enlarged bilinearly to the size of the mask.
    """
    matrix = np.zeros((1 + len(TOY_CLASSES), 2 + len(TOY_CLASSES)), np.int64)
    for truth, cosines in patch_cosines(model):
        large = F.interpolate(cosines[None], truth.shape, mode="bilinear", align_corners=False)
        matrix += confusion_matrix(truth, large[0].argmax(0).numpy(), len(cosines))
    return mean_iou(matrix)


def patch_cosines(model: ToyCLIP) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield the mask ``[96, 96]`` of each image of ``toy_val``, and cosines ``[11, 12, 12]``.

    These are of each patch with the texts of "background" and of the ten classes, the order that
    the mask has.
    """
    texts = embed_words(model, [EMPTY_WORDS[0], *TOY_CLASSES])
    for record in DatasetCatalog.get("toy_val"):
        image = read_image(record["file_name"])
        truth = read_mask(record["sem_seg_file_name"], image.shape[:2], len(texts))
        patches = model.encode_patches(stack_images([image]))
        yield truth, torch.einsum("kd,dhw->khw", texts, patches[0])
