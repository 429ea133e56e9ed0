# SPDX-License-Identifier: Apache-2.0
"""Draw the region and the words that a trained model gives to each noun of some captions.

    python -m codeseg.figure --weights output/toy_code --output output/toy_code/masks.png

The images are those of MODEL.CODE.CAPTIONS.FILES. Under each region stand the words of the caption
that belong to the noun, with their probability.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dalnet.checkpoint import config_for, load_model
from dalnet.config.validation import check_values
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.figures.layout import Cell, add_colorbar, draw_page, save_figure
from dalnet.figures.overlay import draw_heat, make_faint
from dalnet.modeling.resize import resize

from .batch import CaptionBatch
from .captions import clip_tokenizer
from .loader import build_caption_loader
from .masks import word_masks
from .model import CoDe
from .ranks import own_rows

_LEAST = 0.3  # probability of words that are written


@torch.no_grad()
def draw_masks(model: CoDe, records: Sequence[dict[str, Any]]) -> Figure:
    """Return a page with a row for each record of a :class:`.mapper.CaptionMapper`.

    A row has the image with its caption, and for each noun the region with its words.
    """
    model.eval()
    batch = CaptionBatch.collate(list(records), model.device)
    nouns = model.embed_nouns(batch.noun_tokens)  # [K, B, d]
    pixels = model.pixel_features(*model.frozen_tokens(model.normalize(batch.images)))
    masks = model.region_logits(pixels, nouns.flatten(0, 1)).sigmoid()  # [B, K B, h, w]
    masks = resize(masks, batch.images.shape[2:]).cpu()
    own = own_rows(nouns.shape[0] * len(records), masks.device).view(-1, len(records))
    logits = model.classify_words(batch.caption_tokens, nouns)
    words = word_masks(logits, batch.caption_tokens.argmax(dim=1)).cpu()  # [K, B, L]
    rows: list[list[Cell]] = []
    for i, record in enumerate(records):
        image = record["image"].permute(1, 2, 0).numpy()
        faint = make_faint(np.ascontiguousarray(image))
        row: list[Cell] = [(image, record["caption"])]
        for k, noun in enumerate(record["nouns"]):
            heat = draw_heat(faint, masks[i, own[k, i]].numpy())
            named = name_words(record["caption_tokens"], words[k, i])
            row.append((heat, f"{noun}: {named}"))
        rows.append(row)
    count = len(records[0]["nouns"])
    figure = draw_page(rows, ["caption", *(f"noun {k + 1}" for k in range(count))])
    add_colorbar(figure, "probability of the region", colorblind=False)
    return figure


def name_words(tokens: Tensor, mask: Tensor) -> str:
    """Return the words of a caption that belong to a noun, with their probability.

    Args:
        tokens: ids ``[L]``.
        mask: probability of each token ``[L]``.
    """
    tokenizer = clip_tokenizer()
    end = int(tokens.argmax())
    words: list[tuple[str, float]] = []
    text, most = "", 0.0
    for token, value in zip(tokens[1:end].tolist(), mask[1:end].tolist(), strict=True):
        text += tokenizer.decoder[token]
        most = max(most, value)
        if text.endswith("</w>"):
            words.append((text.removesuffix("</w>"), most))
            text, most = "", 0.0
    found = [f"{word} {value:.2f}" for word, value in words if value >= _LEAST]
    return ", ".join(found) or "no word"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m codeseg.figure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="PATH", help="checkpoint or folder of a training")
    add("--output", required=True, type=Path, metavar="FILE", help="the .png or .pdf to write")
    add("--count", type=int, default=4, help="images; default: %(default)s")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    args = parser.parse_intermixed_args(argv)
    with one_sentence_errors(vars(args)):
        if args.count < 1:
            raise UsageError(f"it is {args.count}", "count", "draw 1 image or more")
        cfg = config_for(args.weights, None, args.opts)
        check_values(cfg)
        model = load_model(cfg)
        if not isinstance(model, CoDe):
            raise UsageError(f"it is a model of {type(model).__name__}", "weights", "name CoDe's")
        cfg.SOLVER.IMS_PER_BATCH = args.count
        cfg.DATALOADER.NUM_WORKERS = 0
        records = next(iter(build_caption_loader(cfg)))
        save_figure(args.output, draw_masks(model, records))
        print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
