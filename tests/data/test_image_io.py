# SPDX-License-Identifier: Apache-2.0
"""Images and masks from disk."""

import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from detectron2.utils.file_io import PathManager
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from iopath.common.file_io import PathHandler
from PIL import Image, features

from dalnet.data.image_io import (
    exif_orientation,
    read_color_mask,
    read_image,
    read_mask,
    to_rgb,
    upright_size,
    write_mask,
)
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError

ORIENTATION = 0x0112
# What an array has to go through to be upright, as the EXIF standard names the 8 orientations.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
EXACT = {
    "png": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def test_images_of_all_kinds(tmp_path):
    colors = Image.fromarray(noise(6, 9, 3))
    for mode, suffix in (("L", "png"), ("1", "png"), ("P", "gif"), ("LA", "png"), ("CMYK", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        colors.convert(mode).save(path)
        image = read_image(str(path))
        assert image.shape == (6, 9, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", EXACT)
def test_images_stand_upright_in_every_format(tmp_path, suffix, orientation):
    stored, path = noise(6, 9, 3), tmp_path / f"image.{suffix}"
    Image.fromarray(stored).save(path, exif=exif_of(orientation), **EXACT[suffix])
    np.testing.assert_array_equal(read_image(str(path)), UPRIGHT[orientation](stored))
    with Image.open(path) as image:
        assert exif_orientation(image) == orientation
        np.testing.assert_array_equal(to_rgb(image), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "mpo", "avif"])
def test_images_of_lossy_formats_stand_upright(tmp_path, suffix, orientation):
    if not features.check("avif") and suffix == "avif":
        pytest.skip("this Pillow has no AVIF")
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255
    second = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    more = second if suffix == "mpo" else {}
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(stored).save(path, exif=exif_of(orientation), quality=98, **more)
    difference = read_image(str(path)).astype(int) - UPRIGHT[orientation](stored)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("block", [b"", b"nonsense" * 4, b"text where the orientation belongs"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_damaged_exif_block_is_as_good_as_none(tmp_path, block, suffix):
    values = np.full((6, 9, 3), 200, np.uint8)
    if block.startswith(b"text"):
        block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
    Image.fromarray(values).save(tmp_path / f"odd.{suffix}", exif=b"Exif\0\0" + block)
    image = read_image(str(tmp_path / f"odd.{suffix}"))
    assert np.abs(image.astype(int) - values).max() < 3


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_are_refused(tmp_path, kind):
    Image.fromarray(np.full((6, 9), 1000, kind)).save(tmp_path / "deep.tif")
    with refused(tmp_path / "deep.tif", "more than 8 bits"):
        read_image(str(tmp_path / "deep.tif"))


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_images_and_masks_of_16_bits_a_channel_are_refused(tmp_path, color, channels):
    path, values = tmp_path / "deep.png", np.uint16([[0, 1], [2, 255]])
    write_png(path, np.repeat(values[..., None], channels, axis=2), 16, color)
    with refused(path, "more than 8 bits"):
        read_image(str(path))
    for read in (read_mask, read_color_mask):
        with refused(path, "16 bits"):
            read(str(path))


def write_tiff(path, values, bits, planes):
    """Return an uncompressed color TIFF: [3, H, W] is stored as planes, [H, W, 3] interleaved."""
    height, width = values.shape[1:] if planes else values.shape[:2]
    pixels = values.astype("<u2" if bits == 16 else "u1").tobytes()
    end, part = 8 + len(pixels), len(pixels) // 3
    offsets = [8, 8 + part, 8 + 2 * part] if planes else [8]
    counts = [part] * 3 if planes else [len(pixels)]
    tables = [struct.pack("<3H", bits, bits, bits), struct.pack(f"<{len(offsets)}I", *offsets)]
    tables.append(struct.pack(f"<{len(counts)}I", *counts))
    places = [end, end + 6, end + 6 + len(tables[1])]
    if not planes:
        places[1:] = 8, len(pixels)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, places[0]), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2), (273, 4, len(offsets), places[1]), (277, 3, 1, 3)]
    entries += [(278, 4, 1, height), (279, 4, len(counts), places[2]), (284, 3, 1, 1 + planes)]
    start = end + sum(map(len, tables))
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = struct.pack("<2sHI", b"II", 42, start) + pixels + b"".join(tables)
    path.write_bytes(content + struct.pack("<H", len(entries)) + directory + bytes(4))


@pytest.mark.parametrize("planes", [False, True])
def test_color_tiffs_of_16_bits_are_refused(tmp_path, planes):
    values = np.full((3, 4, 5) if planes else (4, 5, 3), 2, np.uint16)
    write_tiff(tmp_path / "usual.tif", values, 8, planes)
    assert (read_image(str(tmp_path / "usual.tif")) == 2).all()
    assert (read_mask(str(tmp_path / "usual.tif"), (4, 5), 3) == 2).all()
    write_tiff(tmp_path / "deep.tif", values, 16, planes)
    for read in (read_image, read_mask):
        with refused(tmp_path / "deep.tif", "bits a channel"):
            read(str(tmp_path / "deep.tif"))


@pytest.mark.parametrize("form", [b"P2 2 2 %d 0 1 1 0", b"P5 2 2 %d\n\0\1\1\0"])
def test_masks_as_pgm_are_read_by_value_or_refused(tmp_path, form):
    path = tmp_path / "mask.pgm"
    path.write_bytes(form % 255)
    np.testing.assert_array_equal(read_mask(str(path), (2, 2), 2), [[0, 1], [1, 0]])
    for maximum in (1, 20):
        path.write_bytes(form % maximum)
        with refused(path, f"white is {maximum}"):
            read_mask(str(path), (2, 2), 256)
        assert read_image(str(path)).max() == round(255 / maximum)


def test_ppm_of_more_than_8_bits_is_refused(tmp_path):
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6 1 1 4095\n" + bytes(6))
    for read, words in ((read_image, "more than 8 bits"), (read_mask, "white is 4095")):
        with refused(path, words):
            read(str(path))


def test_bitmaps_of_5_bits_a_channel_are_read(tmp_path):
    header = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 66)
    header += struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    (tmp_path / "a.bmp").write_bytes(header + masks + b"\xff\xff\0\0")
    assert read_image(str(tmp_path / "a.bmp"))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", EXACT)
def test_upright_size_is_that_of_the_upright_image(tmp_path, suffix, orientation):
    path = tmp_path / f"image.{suffix}"
    image = Image.fromarray(noise(6, 9, 3))
    image.save(path, exif=exif_of(orientation), **EXACT[suffix])
    with Image.open(path) as image:
        assert upright_size(image) == read_image(str(path)).shape[:2]


def test_what_is_transparent_is_white_whatever_color_hides_in_it(tmp_path):
    colors, hidden = noise(6, 9, 3), np.arange(54).reshape(6, 9) % 2 == 0
    alpha = np.where(hidden, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([colors, alpha])).save(tmp_path / "alpha.png")
    expected = np.where(hidden[..., None], 255, colors)
    np.testing.assert_array_equal(read_image(str(tmp_path / "alpha.png")), expected)
    palette = Image.fromarray(np.uint8(hidden)).convert("P")
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.save(tmp_path / "palette.png", transparency=1)
    expected = np.where(hidden[..., None], 255, np.uint8([9, 8, 7]))
    np.testing.assert_array_equal(read_image(str(tmp_path / "palette.png")), expected)


class CountedFiles(PathHandler):
    """Files under ``counted://``, and how often each has been opened."""

    def __init__(self):
        super().__init__()
        self.opened = Counter()

    def _get_supported_prefixes(self):
        return ["counted://"]

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        self.opened[path] += 1
        return open(path.removeprefix("counted://"), mode)


def test_a_file_is_opened_once(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "once.png")
    files = CountedFiles()
    PathManager.register_handler(files, allow_override=True)
    path = f"counted://{tmp_path / 'once.png'}"
    assert read_image(path).shape == (6, 9, 3)
    assert files.opened == {path: 1}


def test_written_masks_are_read_again(tmp_path):
    mask = np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8)
    path = tmp_path / "folder" / "mask.png"
    write_mask(path, mask)
    with Image.open(path) as image:
        assert (image.mode, image.getpalette()[:9]) == ("P", sum(voc_palette(3), []))
    np.testing.assert_array_equal(read_mask(str(path), (2, 3), 3), mask)


def write_png(path, values, bits, color=0):
    """Return a PNG of any bit depth; ``color`` is PNG's number of a color type."""
    rows = b""
    for row in values.reshape(len(values), -1).tolist():
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, color, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    )


def as_palette(values):
    image = Image.fromarray(values)
    image.putpalette(sum(voc_palette(), []))
    return image


KINDS = {
    "gray.png": Image.fromarray,
    "palette.png": as_palette,
    "color.png": lambda values: Image.fromarray(np.repeat(values[..., None], 3, axis=2)),
    "gray_alpha.png": lambda v: Image.fromarray(np.dstack([v, np.full_like(v, 255)])),
    "color_alpha.png": lambda v: Image.fromarray(np.dstack([v, v, v, np.full_like(v, 255)])),
    "deep.png": lambda values: Image.fromarray(values.astype(np.uint16)),
    "gray.tif": Image.fromarray,
    "int.tif": lambda values: Image.fromarray(values.astype(np.int32)),
    "float.tif": lambda values: Image.fromarray(values.astype(np.float32)),
    "gray.bmp": Image.fromarray,
}


@given(
    values=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=7)),
    orientation=st.sampled_from(sorted(UPRIGHT)),
    kind=st.sampled_from(sorted(KINDS)),
)
@settings(max_examples=200, deadline=None)
def test_masks_of_every_kind_are_read_as_stored(tmp_path_factory, values, orientation, kind):
    path = tmp_path_factory.getbasetemp() / kind
    exif = {} if kind.endswith("bmp") else {"exif": exif_of(orientation)}
    KINDS[kind](values).save(path, **exif)
    mask = read_mask(str(path), values.shape)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, values)
    wrong = sorted({*values.flat} - {0, 1, 2, 255})
    if wrong:
        with refused(path):
            read_mask(str(path), values.shape, 3)
    else:
        np.testing.assert_array_equal(read_mask(str(path), values.shape, 3), values)


@given(data=st.data(), bits=st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_gray_masks_of_few_bits_are_read_by_value(tmp_path_factory, data, bits):
    values = st.integers(0, min(2**bits - 1, 255))
    shape = array_shapes(min_dims=2, max_dims=2, max_side=9)
    mask = data.draw(arrays(np.uint16, shape, elements=values))
    path = tmp_path_factory.getbasetemp() / "few_bits.png"
    write_png(path, mask, bits)
    np.testing.assert_array_equal(read_mask(str(path)), mask)


def test_odd_masks_are_refused_in_one_sentence(tmp_path):
    values = np.uint8([[0, 1], [2, 0]])
    half = np.uint8([[255, 255], [9, 255]])
    colors = np.uint8(voc_palette())[values]
    odd = {
        "colors.png": Image.fromarray(colors),
        "cmyk.tif": Image.fromarray(colors).convert("CMYK"),
        "transparent.png": Image.fromarray(np.dstack([values, half])),
        "deep.png": Image.fromarray(values.astype(np.uint16) + 300),
        "fractions.tif": Image.fromarray(values / np.float32(2)),
        "nan.tif": Image.fromarray(np.full((2, 2), np.nan, np.float32)),
        "negative.tif": Image.fromarray(values.astype(np.int32) - 1),
        "lossy.jpg": Image.fromarray(values),
        "lossy.webp": Image.fromarray(values),
    }
    for name, image in odd.items():
        image.save(tmp_path / name)
        with refused(tmp_path / name) as info:
            read_mask(str(tmp_path / name), (2, 2), 3)
        assert "\n" not in str(info.value)


def test_masks_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8))
    with refused(path, "EXIF"):
        read_mask(str(path), (3, 2), 3)
    with refused(path, "size"):
        read_mask(str(path), (3, 3), 3)
    with refused(path, "value 2"):
        read_mask(str(path), (2, 3), 2)
    with refused(path, "value 255"):
        read_mask(str(path), (2, 3), 3, ignore=-1)


@given(
    position=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    length=st.floats(0.1, 1),
    kind=st.sampled_from([("png", {}), ("tif", {}), ("jpg", {}), ("gif", {}), ("webp", {})]),
)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_end_in_a_sentence_or_are_read(
    tmp_path_factory, position, byte, length, kind
):
    suffix, options = kind
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    Image.fromarray(noise(12, 15, 3)).save(path, **options)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = byte
    path.write_bytes(content[: int(length * len(content))])
    for read in (read_image, read_mask):
        try:
            assert read(str(path)).dtype == np.uint8
        except UsageError as error:
            assert error.where == str(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\0\0\0\x18ftypheic", "convert it to JPEG"), (None, "none.png")],
)
def test_files_that_are_no_images_are_named(tmp_path, content, words):
    path = tmp_path / "none.png"
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, read_mask):
        with refused(path, words):
            read(str(path))
