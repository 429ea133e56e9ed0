# SPDX-License-Identifier: Apache-2.0
"""Hostile images and masks: each is made here, from nothing but bytes and Pillow."""

import gzip
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

from dalnet.data.image_headers import keep_readable
from dalnet.data.image_io import read_color_mask, read_image, read_mask

from .case import HARMLESS, Case


def chunk(kind, content):
    """Return a chunk of a PNG."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, *extra, color=2, depth=8, pixels=None, checksum=None):
    """Return a PNG that claims a size; its pixels are those of 1 x 1."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    first = chunk(b"IHDR", header)
    if checksum is not None:
        first = first[:-4] + checksum
    data = zlib.compress(b"\0\1\2\3" if pixels is None else pixels)
    chunks = b"".join([*extra, chunk(b"IDAT", data), chunk(b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + first + chunks


def encoded(kind, image=None, **options):
    """Return a small image in a format, as bytes."""
    stream = io.BytesIO()
    (image or Image.new("RGB", (16, 12), "red")).save(stream, kind, **options)
    return stream.getvalue()


def segment(marker, content):
    """Return a segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments):
    """Return a JPEG with segments behind its first two bytes."""
    whole = encoded("JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def jpeg_that_claims(width, height):
    """Return a JPEG whose frame header claims another size."""
    whole = bytearray(encoded("JPEG"))
    place = whole.index(b"\xff\xc0") + 5
    whole[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def gif_with_frames(count):
    """Return a GIF of 1 x 1 pixel that has so many frames."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    screen = struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + screen + frame * count + b"\x3b"


def fits():
    """Return a FITS of 16 x 12 pixels that are compressed by gzip to whatever size."""
    about = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 1, "PCOUNT": 40, "GCOUNT": 1}
    about |= {"TFIELDS": 1, "ZIMAGE": "T", "ZCMPTYPE": "'GZIP_1  '", "ZBITPIX": 8}
    about |= {"ZNAXIS": 2, "ZNAXIS1": 16, "ZNAXIS2": 12}
    parts = [{"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0, "EXTEND": "T"}]
    parts += [{"XTENSION": "'BINTABLE'"} | about]
    texts = ["".join(f"{k:8}= {v!s:>20}".ljust(80) for k, v in part.items()) for part in parts]
    heads = b"".join(f"{text}END".ljust(2880).encode() for text in texts)
    return heads + bytes(8) + gzip.compress(bytes(16 * 12))


def tiff(*entries, next_directory=0):
    """Return a TIFF of one directory; an entry is tag, type, count and value."""
    content = b"II*\0" + struct.pack("<IH", 8, len(entries))
    content += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return content + struct.pack("<I", next_directory) + bytes(64)


_SIZE = ((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
_STRIP = ((273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64))
_BOMB = zlib.compress(bytes(300 << 20), 9)  # 300 kB that unfold to 300 MB


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def deep_gray(path):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(path)


def without_pixels(path):
    """Many megabytes of nothing behind a good header, on a disk that stores no holes."""
    path.write_bytes(png(16, 12))
    os.truncate(path, 1 << 31)


def image_case(name, file, content, expect=None, read=read_image):
    """Return a case of one image file; ``content`` is bytes, or makes the file."""

    def make(folder):
        path = folder / file
        content(path) if callable(content) else path.write_bytes(content)
        return path

    kind = {} if expect is None else {"expect": expect}
    return Case(name, make, lambda path: read(str(path)), **kind)


def headers(path):
    return keep_readable([{"file_name": path}], strict=True)


def mask(path):
    return read_mask(path, size=(12, 16), num_classes=3)


IMAGES = [
    image_case("png of 60,000 x 60,000", "a.png", png(60_000, 60_000)),
    image_case("the same by its header", "a.png", png(60_000, 60_000), read=headers),
    image_case("png of 2^31 x 1", "a.png", png((1 << 31) - 1, 1)),
    image_case("png of 0 x 0", "a.png", png(0, 0)),
    image_case(
        "png of 13,000 x 13,000 with alpha",
        "a.png",
        png(13_000, 13_000, color=6, pixels=bytes(13_000 * 52_001)),
    ),
    image_case("jpeg that claims 65,500 x 65,500", "a.jpg", jpeg_that_claims(65_500, 65_500)),
    image_case(
        "bmp that claims 60,000 x 60,000",
        "a.bmp",
        b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ),
    image_case("ppm that claims a huge size", "a.ppm", b"P6 99999999 99999999 255\n\0\0\0"),
    image_case("ppm with a number of a megabyte", "a.ppm", b"P6 " + b"9" * 1_000_000 + b" 1 255\n"),
    image_case("webp cut off", "a.webp", encoded("WEBP")[:40]),
    image_case("jpeg 2000 cut off", "a.jp2", encoded("JPEG2000")[:80]),
    image_case("png with a wrong checksum", "a.png", png(1, 1, checksum=b"\0\0\0\0")),
    image_case(
        "png with a chunk of 2 GB", "a.png", png(1, 1, struct.pack(">I", 2**31 - 1) + b"zTXt")
    ),
    image_case("png with text of 300 MB", "a.png", png(1, 1, chunk(b"zTXt", b"a\0\0" + _BOMB))),
    image_case(
        "png with a profile of 300 MB", "a.png", png(1, 1, chunk(b"iCCP", b"a\0\0" + _BOMB))
    ),
    image_case("png with pixels of 300 MB", "a.png", png(1, 1, pixels=bytes(300 << 20)), HARMLESS),
    image_case("png without pixels", "a.png", png(400, 300, pixels=b"")),
    image_case("png with a palette missing", "a.png", png(1, 1, color=3), HARMLESS),
    image_case("png of an unknown kind of color", "a.png", png(1, 1, color=5)),
    image_case("png with gray of 16 bits", "a.png", deep_gray),
    image_case("png with holes of 2 GB behind it", "a.png", without_pixels),
    image_case("gif of 100,000 frames", "a.gif", gif_with_frames(100_000), HARMLESS),
    image_case("gif cut off", "a.gif", gif_with_frames(1)[:24]),
    image_case("jpeg cut off", "a.jpg", encoded("JPEG")[:300]),
    image_case("jpeg of its header alone", "a.jpg", encoded("JPEG")[:20]),
    image_case(
        "jpeg with 60 MB of Exif",
        "a.jpg",
        jpeg_with(*[segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 900),
    ),
    image_case(
        "jpeg with a broken profile",
        "a.jpg",
        jpeg_with(segment(0xE2, b"ICC_PROFILE\0\7\1nothing")),
        HARMLESS,
    ),
    image_case("jpeg with a segment of length 0", "a.jpg", jpeg_with(b"\xff\xe1\0\0"), HARMLESS),
    image_case("jpeg in CMYK", "a.jpg", encoded("JPEG", Image.new("CMYK", (16, 12))), HARMLESS),
    image_case(
        "tiff that is its own next image",
        "a.tif",
        tiff(*_SIZE, *_STRIP, next_directory=8),
        HARMLESS,
    ),
    image_case(
        "tiff of 4,000,000,000 x 8", "a.tif", tiff((256, 4, 1, 4_000_000_000), *_SIZE[1:], *_STRIP)
    ),
    image_case(
        "tiff whose pixels are nowhere", "a.tif", tiff(*_SIZE, (273, 4, 1, 1 << 30), *_STRIP[1:])
    ),
    image_case(
        "tiff with a tag of 4 GB",
        "a.tif",
        tiff(*_SIZE, (270, 2, (1 << 32) - 1, 8), *_STRIP),
        HARMLESS,
    ),
    image_case("fits that holds a compressed table", "a.jpg", fits()),
    image_case("svg named png", "a.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    image_case("a web page named jpg", "a.jpg", b"<!doctype html><img src=x onerror=alert(1)>"),
    image_case(
        "postscript named jpg",
        "a.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\n%%EOF",
    ),
    image_case("an empty file", "a.jpg", b""),
    image_case("a pipe named jpg", "a.jpg", fifo),
    image_case("a pipe named jpg by its header", "a.jpg", fifo, read=headers),
    image_case("a device named png", "a.png", device),
    image_case("a link to itself", "a.jpg", loop),
    image_case("a folder named jpg", "a.jpg", lambda path: path.mkdir()),
    image_case("mask of another size", "m.png", encoded("PNG", Image.new("L", (9, 9))), read=mask),
    image_case(
        "mask of values without a class",
        "m.png",
        encoded("PNG", Image.new("L", (16, 12), 7)),
        read=mask,
    ),
    image_case(
        "mask of negative values", "m.tif", encoded("TIFF", Image.new("I", (16, 12), -1)), read=mask
    ),
    image_case(
        "mask of NaN", "m.tif", encoded("TIFF", Image.new("F", (16, 12), float("nan"))), read=mask
    ),
    image_case("mask in color", "m.png", encoded("PNG"), read=mask),
    image_case("mask of 60,000 x 60,000", "m.png", png(60_000, 60_000, color=0), read=mask),
    image_case("a pipe named as a mask", "m.png", fifo, read=mask),
    image_case(
        "mask of colors that is cut off", "m.png", encoded("PNG")[:45], read=read_color_mask
    ),
]
