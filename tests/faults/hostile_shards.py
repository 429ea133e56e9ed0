# SPDX-License-Identifier: Apache-2.0
"""Hostile webdataset shards."""

import io
import tarfile

from codeseg.caption_files import read_shard

from .case import HARMLESS, LEFT_OUT
from .hostile_documents import DEEP, text_case
from .hostile_images import encoded, fifo

IMAGE, CAPTION = ("a.jpg", encoded("JPEG"), {}), ("a.txt", b"a cat", {})


def tar_of(*members):
    """A tar file; a member is a name, its content, and what else its header says."""

    def make(path):
        with tarfile.open(path, "w") as archive:
            for name, content, about in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                for key, value in about.items():
                    setattr(info, key, value)
                archive.addfile(info, io.BytesIO(content) if info.isreg() else None)

    return make


def lying_tar(size):
    """A tar file of one image that claims a size."""

    def make(path):
        info = tarfile.TarInfo("a.jpg")
        info.size = size
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))

    return make


def shard(name, content, expect=None):
    return text_case(f"shard: {name}", "s.tar", content, lambda path: [*read_shard(path)], expect)


SHARDS = [
    shard(
        "an absolute name",
        tar_of(("/tmp/escaped.jpg", encoded("JPEG"), {}), ("/tmp/escaped.txt", b"a cat", {})),
        HARMLESS,
    ),
    shard(
        "a name upwards",
        tar_of(("../../escaped.jpg", encoded("JPEG"), {}), ("../../escaped.txt", b"a cat", {})),
        HARMLESS,
    ),
    shard(
        "links for an image",
        tar_of(("a.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), CAPTION),
        LEFT_OUT,
    ),
    shard(
        "hard links for a caption",
        tar_of(IMAGE, ("a.txt", b"", {"type": tarfile.LNKTYPE, "linkname": "a.jpg"})),
        LEFT_OUT,
    ),
    shard(
        "devices and pipes",
        tar_of(
            ("a.jpg", b"", {"type": tarfile.CHRTYPE}), ("b.jpg", b"", {"type": tarfile.FIFOTYPE})
        ),
        LEFT_OUT,
    ),
    shard("one of 8 EB", lying_tar(8 << 60), LEFT_OUT),
    shard("one of 1 TB", lying_tar(1 << 40), LEFT_OUT),
    shard("names twice", tar_of(IMAGE, IMAGE, CAPTION), LEFT_OUT),
    shard("nouns deeply nested", tar_of(IMAGE, CAPTION, ("a.nouns.json", DEEP.encode(), {}))),
    shard("nouns that are no text", tar_of(IMAGE, CAPTION, ("a.nouns.json", b"\xff\xfa", {}))),
    shard("a caption of 20 MB", tar_of(IMAGE, ("a.txt", b"x " * 10_000_000, {})), HARMLESS),
    shard(
        "a name that is a command",
        tar_of(("pipe:touch ran.jpg", b"", {}), ("pipe:touch ran.txt", b"a", {})),
        HARMLESS,
    ),
    shard("a pipe", fifo),
    shard("no tar file", b"nothing" * 1000, LEFT_OUT),
]
