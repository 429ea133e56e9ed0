#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Bring predictions that dalnet evaluate --dump has written into the form that others take.

    python tools/export_predictions.py voc --predictions DUMP/sem_seg/ms+flip+crf \\
        --split voc_2012_sem_seg_test --output results.tgz
    python tools/export_predictions.py coco --predictions DUMP/sem_seg/ms+flip+crf \\
        --split coco_2014_sem_seg_val --output results.json

The first makes the archive for PASCAL VOC's test server, the second COCO's result file (RLE).
"""

import argparse
from pathlib import Path

import dalnet.data  # noqa: F401  registers the data sets

# isort: split
from detectron2.data import DatasetCatalog

from dalnet.data.datasets.coco import COCO_CATEGORY_IDS, COCO_CLASSES
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.export.coco_results import write_coco_results
from dalnet.export.voc_server import write_voc_archive


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", choices=["voc", "coco"])
    parser.add_argument("--predictions", type=Path, required=True, help="DUMP/SOURCE/PROTOCOL")
    parser.add_argument("--split", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    with one_sentence_errors():
        if not args.split.startswith(args.format):
            raise UsageError(f"no split of {args.format}", args.split, "name one, or the other")
        if args.split not in DatasetCatalog:
            raise UsageError("there is no such split", args.split, "see docs/data.md for names")
        records = DatasetCatalog.get(args.split)
        if args.format == "voc":
            write_voc_archive(args.predictions, records, VOC_CLASSES, args.output)
        else:
            ids = dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True))
            write_coco_results(args.predictions, records, ids, args.output)
        print(f"written: {args.output}")


if __name__ == "__main__":
    main()
