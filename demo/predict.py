#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Segment your own images and videos with a trained model.

    python demo/predict.py --weights output/voc_dalnet/model_final.pth \\
        --input photos/ "more/*.jpg" --output predicted

Of an image "dog.jpg" it writes, into the folder of --output:
  dog_overlay.jpg     the image with its classes in color and their names below
  dog_mask.png        class indices with VOC's palette, 0 for background
  dog_cam_CLASS.png   where the classifier sees a class (--save cam, or --cam-classes)
and of a video "walk.mp4":
  walk_overlay.mp4    of the same size and frame rate, without sound
  walk_mask/*.png     a mask per frame (--save mask)

What lies in folders stays in folders of the same names below --output. Results of an earlier run
are replaced, inputs never. What cannot be read is left out and listed at the end; the exit status
is 1 if nothing could be predicted. The log and the full config are in the folder "log" there.
"""

import argparse

from dalnet.errors import one_sentence_errors
from dalnet.prediction import command


def parse_args() -> argparse.Namespace:
    """Read the command line; ``--config-file`` and ``--opts`` are as in earlier versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("--config-file", dest="config", **hidden)
    parser.add_argument("--opts", dest="more_opts", nargs=argparse.REMAINDER, **hidden)
    args = parser.parse_args()
    args.opts += getattr(args, "more_opts", [])
    return args


if __name__ == "__main__":
    with one_sentence_errors():
        command.run(parse_args())
