# SPDX-License-Identifier: Apache-2.0
"""Hostile weights, arrays and archives."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import save_file
from scipy.io import savemat

from dalnet.checkpoint import config_of_checkpoint, load_model
from dalnet.checkpoint.files import INFO, read_file
from dalnet.checkpoint.info import read_info
from dalnet.data.prepare.context import read_context_mask
from dalnet.data.prepare.image_labels import convert_image_labels
from dalnet.data.prepare.masks import MaskSource, write_masks
from dalnet.data.prepare.sbd import read_source_mask
from dalnet.evaluation.counts import Counts
from dalnet.modeling.backbone.weights import load_vit_weights
from dalnet.modeling.clip.embedding_files import read_class_embeddings
from dalnet.modeling.clip.weights import read_checkpoint
from dalnet.modeling.weight_files import read_state

from .case import HARMLESS, LEFT_OUT
from .hostile_documents import ALIASES, DEEP, RUNS_CODE, holes, text_case
from .hostile_images import device, fifo

SYSTEM = {"system": "DALNet", "class_names": ["background", "cat"], "prompt_names": ["cat"]}


class Runs:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def pickled(path):
    path.write_bytes(pickle.dumps({"model": Runs()}))


def saved(content):
    return lambda path: torch.save(content, path)


def array_of_objects(path):
    np.save(path, np.array({"a": Runs()}, dtype=object), allow_pickle=True)


def labels_of(value):
    """A label file of one image; arrays that hold each other many times are written once."""
    return lambda path: np.save(path, np.array({"a": value}, dtype=object), allow_pickle=True)


def pickled_labels(content):
    """Writes a label file of this pickle."""

    def make(path):
        np.save(path, np.array({}, dtype=object), allow_pickle=True)
        path.write_bytes(path.read_bytes()[:128] + content)

    return make


huge_memo = pickled_labels(b"\x80\x04}r\xff\xff\xff\x7f.")
without_content = pickled_labels(b"\x80\x04}\x8c\1acnumpy\nndarray\n)\x81s.")


def nested(times):
    value = [0, 1]
    for _ in range(times):
        value = [value] * 10
    return value


class Crafted:
    """Asks for an array of a type whose state says that its bytes are pointers."""

    def __reduce__(self):
        fields = {"a": (np.dtype("O"), 0)}
        state = (3, "|", None, ("a",), fields, 8, 1, 0)
        return np.ndarray, ((1,), CraftedType(state), b"\x41" * 8)


class CraftedType:
    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.dtype, ("V8", False, True), self.state


def npy_that_claims(shape):
    """A file of numpy's format whose header claims a shape, without content."""

    def make(path):
        stream = io.BytesIO()
        about = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, about)
        path.write_bytes(stream.getvalue())

    return make


def names_in_a_pipe(path):
    np.save(path, np.ones((1, 2), np.float32))
    fifo(path.with_suffix(".txt"))


def npz_bomb(path):
    """A megabyte that unfolds to a gigabyte for one parameter, and a member that leads upwards."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escaped.npy", b"x")
        archive.writestr("embedding/kernel.npy", bytes(1 << 24))


def zip_bomb(path):
    """Half a megabyte that unfolds to 400."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as member,
    ):
        for _ in range(25):
            member.write(bytes(1 << 24))


def changed_zip(changes):
    """Write an .npz file in which some bytes of the zip directory are replaced."""

    def make(path):
        stream = io.BytesIO()
        np.savez(stream, a=np.ones(1))
        content = stream.getvalue()
        for old, new in changes.items():
            assert old in content
            content = content.replace(old, new)
        path.write_bytes(content)

    return make


def tensors_that(header, data=b""):
    """A safetensors file of this header, which may be bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin, end, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def with_metadata(about, **tensors):
    def make(path):
        save_file(tensors or {"a": torch.ones(1)}, path, about)

    return make


def bundle(**changes):
    about = {**SYSTEM, "config": "MODEL: {}", "versions": {}} | changes
    return with_metadata({INFO: json.dumps(about)})


def config_with(key, value):
    """Return the text of a config in which one value is hostile."""
    content = value
    for name in reversed(key.split(".")):
        content = {name: content}
    return yaml.safe_dump(content)


def build(path):
    return load_model(config_of_checkpoint(path))


def matrix(compressed=True, **content):
    return lambda path: savemat(path, content, do_compression=compressed)


def without_type(path):
    """Write a matrix without a data type, which makes scipy end the process."""
    matrix(LabelMap=np.ones((2, 2)), compressed=False)(path)
    named = b"LabelMap" + struct.pack("<II", 9, 32)
    content = path.read_bytes()
    assert named in content
    path.write_bytes(content.replace(named, b"Label\0\0\0" + bytes(8)))


def prepare_mask(path):
    """Read a mask as dalnet prepare does, in a process beside this one."""
    source = MaskSource(path, 0.0)
    return write_masks({path.with_suffix(".png"): source}, read_context_mask, workers=1)


def state(path):
    return read_state(path, "MODEL.VIT.WEIGHTS")


def encoder(path):
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    load_vit_weights(vit, "vit_tiny_patch16_224", str(path))


def embeddings(path):
    return read_class_embeddings(str(path), [["cat"]])


def labels(path):
    return convert_image_labels(path, path.parent / "tags.json", ["cat", "dog"])


def whole_checkpoint(path):
    return read_file(str(path))


LATER = {b"PK\1\2-\3-": b"PK\1\2-\3m"}  # version 10.9
# Its name is UTF-8, says a flag.
NO_TEXT = {b"PK\1\2-\3-\0\0\0": b"PK\1\2-\3-\0\0\x08", b"a.npyPK\5\6": b"\xea.npyPK\5\6"}
WEIGHTS = [
    text_case("pth: a pickle that runs code", "w.pth", pickled, whole_checkpoint),
    text_case("pth: torch's own with such an object", "w.pth", saved({"model": Runs()}), state),
    text_case("pt: such an object as CLIP", "w.pt", saved(Runs()), read_checkpoint),
    text_case("pth: a name of a module", "w.pth", saved({"model": torch.nn.Linear(1, 1)}), state),
    text_case(
        "pth: numbers as names", "w.pth", saved({"model": {1: torch.ones(1)}}), whole_checkpoint
    ),
    text_case("pth: lists in lists", "w.pth", saved({"model": {"a": nested(8)}}), whole_checkpoint),
    text_case("pth: a pipe", "w.pth", fifo, whole_checkpoint),
    text_case("pth: a device", "w.pth", device, whole_checkpoint),
    text_case("pth: a zip file without content", "w.pth", b"PK\5\6" + bytes(18), whole_checkpoint),
    text_case("pth: a bomb", "w.pth", zip_bomb, whole_checkpoint),
    text_case("npz: a bomb of 400 MB", "w.npz", zip_bomb, encoder),
    text_case("pth: cut off", "w.pth", b"PK\3\4" + bytes(40), state),
    text_case("npz: objects", "w.npz", lambda path: np.savez(path, a=np.array([Runs()])), encoder),
    text_case("npz: a bomb with a name upwards", "w.npz", npz_bomb, encoder),
    text_case("npz: a zip of later times", "w.npz", changed_zip(LATER), encoder),
    text_case("npz: a name that is no text", "w.npz", changed_zip(NO_TEXT), encoder),
    text_case("npy: objects as embeddings", "e.npy", array_of_objects, embeddings),
    text_case("npy: names that are a pipe", "e.npy", names_in_a_pipe, embeddings),
    text_case("npy: 10^15 rows", "e.npy", npy_that_claims((10**15, 1)), embeddings),
    text_case("npy: a negative shape", "e.npy", npy_that_claims((-1, 4)), embeddings),
    text_case("labels: code", "l.npy", array_of_objects, labels),
    text_case("labels: a type with pointers", "l.npy", labels_of(Crafted()), labels),
    text_case("labels: lists in lists", "l.npy", labels_of(nested(9)), labels),
    text_case("labels: room for two billion objects", "l.npy", huge_memo, labels),
    text_case("labels: an array without content", "l.npy", without_content, labels),
    text_case("labels: cut off", "l.npy", b"\x93NUMPY\1\0", labels),
    text_case("labels: a pipe", "l.npy", fifo, labels),
    text_case(
        "safetensors: a header of 2^60 bytes", "w.safetensors", struct.pack("<Q", 1 << 60), state
    ),
    text_case(
        "safetensors: a header of 200 MB", "w.safetensors", tensors_that(b" " * 200_000_000), state
    ),
    text_case("safetensors: deeply nested", "w.safetensors", tensors_that(DEEP.encode()), state),
    text_case(
        "safetensors: tensors that overlap",
        "w.safetensors",
        tensors_that({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        state,
    ),
    text_case(
        "safetensors: more than there is",
        "w.safetensors",
        tensors_that({"a": tensor(0, 8_000_000_000, [2_000_000_000])}),
        state,
    ),
    text_case(
        "safetensors: a negative place", "w.safetensors", tensors_that({"a": tensor(-8, 0)}), state
    ),
    text_case(
        "safetensors: a shape that overflows",
        "w.safetensors",
        tensors_that({"a": tensor(0, 8, [1 << 40, 1 << 40])}, bytes(8)),
        state,
    ),
    text_case(
        "safetensors: names that are nested",
        "e.safetensors",
        with_metadata({"names": DEEP}, embeddings=torch.ones(1, 2)),
        embeddings,
    ),
    text_case(
        "safetensors: names that are numbers",
        "e.safetensors",
        with_metadata({"names": "[1]"}, embeddings=torch.ones(1, 2)),
        embeddings,
    ),
    text_case(
        "bundle: about itself deeply nested",
        "b.safetensors",
        with_metadata({INFO: DEEP}),
        read_info,
    ),
    text_case(
        "bundle: numbers as classes",
        "b.safetensors",
        bundle(class_names=[1, 2]),
        config_of_checkpoint,
    ),
    text_case(
        "bundle: a line break in a class",
        "b.safetensors",
        bundle(class_names=["background", "a\nb"]),
        config_of_checkpoint,
    ),
    text_case(
        "bundle: names a module as system",
        "b.safetensors",
        bundle(system="os.system"),
        config_of_checkpoint,
    ),
    text_case(
        "bundle: a config that runs code",
        "b.safetensors",
        bundle(config=RUNS_CODE),
        config_of_checkpoint,
    ),
    text_case(
        "bundle: a config of aliases", "b.safetensors", bundle(config=ALIASES), config_of_checkpoint
    ),
    text_case(
        "bundle: a config that is a list",
        "b.safetensors",
        bundle(config="- 1"),
        config_of_checkpoint,
    ),
    *[
        text_case(
            f"bundle: a huge {key}",
            "b.safetensors",
            bundle(config=config_with(key, 10**9)),
            build,
        )
        for key in (
            "MODEL.VIT.EMBED_DIM",
            "MODEL.VIT.DEPTH",
            "MODEL.VIT.IMG_SIZE",
            "MODEL.SEM_SEG_HEAD.CONVS_DIM",
            "MODEL.CLIP.EMBED_DIM",
            "MODEL.DALNET.PROJECTION_DIM",
        )
    ],
    text_case(
        "bundle: CLIP on the web",
        "b.safetensors",
        bundle(config=config_with("MODEL.CLIP.WEIGHTS", "http://127.0.0.1:9/clip.pt")),
        lambda path: config_of_checkpoint(path).MODEL.CLIP.WEIGHTS,
        LEFT_OUT,
    ),
    text_case(
        "bundle: a config of text for nodes",
        "b.safetensors",
        bundle(config="MODEL: text"),
        config_of_checkpoint,
    ),
    text_case(
        "counts: another file",
        "c.safetensors",
        tensors_that(b"{}"),
        lambda path: Counts([], 2, 0.5).load(path),
        HARMLESS,
    ),
    text_case("mat: 2 GB of zeros", "m.mat", holes, read_context_mask),
    text_case("mat: numbers without a type", "m.mat", without_type, prepare_mask),
    text_case("mat: text", "m.mat", matrix(LabelMap="text"), read_context_mask),
    text_case(
        "mat: objects",
        "m.mat",
        matrix(GTcls={"Segmentation": np.array([{}], object)}),
        read_source_mask,
    ),
    text_case("mat: cut off", "m.mat", b"MATLAB 5.0" + bytes(120), read_source_mask),
    text_case("mat: a pipe", "m.mat", fifo, read_source_mask),
]
