# SPDX-License-Identifier: Apache-2.0
"""Check tagged images before a training: tags, images, duplicates, masks, and how long it takes.

    dalnet check --images pets/ --tags pets.csv --output check.html
    dalnet check --images pets/ --tags pets.csv --masks pet_masks/

Prints what was found and, with --output, writes it as one HTML page with thumbnails. The exit
status is 0 if a training can start, and 1 if it cannot.
"""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from dalnet.labeling.check import Findings, check_images
from dalnet.labeling.check_page import write_page
from dalnet.labeling.estimate import estimate_training
from dalnet.labeling.tagged_training import ClassWords, read_class_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--tags", type=Path, metavar="FILE", help="file of tags (default: the sub-folders)")
    text = "what an image without a tag shows: something unknown, or none of the classes"
    add("--untagged", choices=("unknown", "none"), default="unknown", help=text)
    text = "YAML file that lists classes, their words for CLIP, and synonyms (default: all tags)"
    add("--classes", type=Path, metavar="FILE", help=text)
    add("--masks", type=Path, metavar="DIR", help="label maps (PNG) to compare with the tags")
    add("--output", type=Path, metavar="FILE", help="HTML page to write (default: none)")
    add("--no-estimate", action="store_true", help="do not measure how long a training takes")


def run(args: argparse.Namespace) -> None:
    """Check what the arguments say; end with status 1 where a training cannot start.

    Raises:
        UsageError: the images or the tags cannot be read at all.
    """
    words = read_class_words(args.classes) if args.classes else ClassWords()
    findings = check_images(
        args.images,
        args.tags,
        classes=list(words.classes),
        synonyms=words.synonyms,
        masks=args.masks,
        untagged=args.untagged,
    )
    estimate = "" if args.no_estimate else estimate_training(findings)
    _print(findings, estimate)
    if args.output:
        write_page(findings, args.output, f"Tagged images in {args.images}", estimate)
        print(f"written: {args.output}")
    if not findings.can_start:
        sys.exit(1)


def _print(findings: Findings, estimate: str) -> None:
    print(f"{len(findings.files)} images, {len(findings.classes)} classes")
    print(tabulate(findings.counts.items(), headers=["class", "images"], tablefmt="plain"))
    for note in findings.notes:
        print(f"{note.level}: {note.text}")
    if estimate:
        print(estimate)
