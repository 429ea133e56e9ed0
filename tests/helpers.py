# SPDX-License-Identifier: Apache-2.0
"""Models and inputs that several test modules build."""

import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

TOCO = (
    *("MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False, "MODEL.DALNET.CTC_WEIGHT", 0.5),
    *("MODEL.DALNET.CTC.HIDDEN_DIM", 16, "MODEL.DALNET.CTC.BOTTLENECK_DIM", 8),
    *("MODEL.DALNET.CTC.OUT_DIM", 12, "INPUT.MULTI_CROP.LOCAL_CUT", "uncertain"),
)


def make_item(seed, labels=(1, 4), box=(0, 32, 4, 32)):
    generator = torch.Generator().manual_seed(seed)

    def pixels(*shape):
        # Smooth pictures, so that CAMs have regions.
        coarse = torch.rand(*shape[:-2], 4, 4, generator=generator)
        coarse = coarse.view(-1, 3, 4, 4)
        return (255 * F.interpolate(coarse, size=shape[-2:], mode="bilinear")).byte().view(shape)

    multi_hot = torch.zeros(10)
    multi_hot[list(labels)] = 1
    return {
        "image": pixels(3, 32, 32),
        "image_labels": multi_hot,
        "image_box": torch.tensor(box),
        "global_views": pixels(1, 3, 32, 32),
        "local_views": pixels(2, 3, 16, 16),
        "local_boxes": torch.tensor([[27, 32, 4, 22], [20, 28, 6, 14]]),
        "height": 32,
        "width": 32,
    }


def make_model(cfg, *options):
    cfg = cfg.clone()
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    model = build_model(cfg)
    # Fresh linear layers give flat CAMs; larger weights give regions above the thresholds.
    with torch.no_grad():
        for classifier in (model.classifier, model.inter_classifier):
            for parameter in classifier.parameters():
                parameter.mul_(20)
    return model


def losses_of(model, items, iteration=0):
    with EventStorage(iteration):
        return model.train()(items)
