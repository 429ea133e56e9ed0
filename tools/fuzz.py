# SPDX-License-Identifier: Apache-2.0
"""Give a parser of outside files random ones, led by what they make it do, and keep its failures.

    python tools/fuzz.py tags.json --minutes 10

Anything but a result or a UsageError is a find: its input goes into the folder of finds, and its
traceback is printed once. It needs atheris (pip install atheris), which is in no other list, and
dalnet[cluster].
"""

import argparse
import io
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

# isort: off
import dalnet  # noqa: F401  before what loads torch
import atheris

# isort: on

with atheris.instrument_imports(include=["dalnet", "codeseg", "clims", "yaml", "json", "csv"]):
    import codeseg.caption_files
    from clims.texts import read_texts
    from dalnet.checkpoint import config_of_checkpoint, history
    from dalnet.checkpoint.files import INFO, read_file
    from dalnet.config import load_config
    from dalnet.data.datasets.coco import open_annotations
    from dalnet.data.datasets.custom import read_classes
    from dalnet.data.datasets.tagged import TaggedImages
    from dalnet.data.datasets.voc_layout import find_listed
    from dalnet.data.image_headers import keep_readable
    from dalnet.data.image_io import read_color_mask, read_image, read_mask
    from dalnet.data.labels import _names_in_xml
    from dalnet.data.prepare.coco_masks import check_run_lengths, with_area
    from dalnet.data.prepare.color_masks import read_label_map
    from dalnet.data.prepare.context import read_context_mask
    from dalnet.data.prepare.image_labels import convert_image_labels
    from dalnet.data.tags import match_names, read_tags
    from dalnet.documents import read_json
    from dalnet.engine.run_record import read_record
    from dalnet.errors import UsageError
    from dalnet.evaluation.results import read_results
    from dalnet.io import read_lines
    from dalnet.labeling.cluster_input import find_list, find_shards
    from dalnet.labeling.manifest import Manifest
    from dalnet.labeling.mask_values import read_mask_values
    from dalnet.labeling.tagged_training import read_class_words
    from dalnet.modeling.backbone.weights import load_vit_weights
    from dalnet.modeling.clip.embedding_files import read_class_embeddings
    from dalnet.report.run import read_metrics

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import timm
import torch
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

Read = Callable[[Path], object]


def read_table(path: Path) -> object:
    """Read tags, and look for their images."""
    return match_names(read_tags(path).shown, ["a.jpg", "b/a.png"])


def read_list(path: Path) -> object:
    return find_listed(path, read_lines(path, ""), ["a.jpg", "b.png"])


def read_segmentation(path: Path) -> object:
    """Look at a segmentation as COCO's annotations hold it."""
    content = read_json(path)
    try:
        if isinstance(content, dict):
            return check_run_lengths(content, 12, 16)
        return with_area(content, 12, 16) if isinstance(content, list) else None
    except (ValueError, OverflowError):  # which its caller words
        return None


def read_header(path: Path) -> object:
    return keep_readable([{"file_name": str(path)}], strict=True)


def read_vit(path: Path) -> None:
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 4, "depth": 1, "num_heads": 1}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    load_vit_weights(vit, "vit_tiny_patch16_224", str(path))


def read_manifest(path: Path) -> object:
    manifest = Manifest(path.parent, {})
    manifest.close()
    return manifest.finished


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    ],
    "categories": [{"id": 1, "name": "person", "supercategory": "x"}],
}
TASK = {"value": {"choices": ["cat"]}, "type": "choices"}
LABEL_STUDIO = [{"data": {"image": "/data/?d=a.jpg"}, "annotations": [{"result": [TASK]}]}]
LINE = '{"image": "a.jpg", "caption": "a cat", "nouns": ["cat"], "tags": ["cat"]}\n'
CVAT = (
    "<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    '<image id="0" name="a.jpg"><box label="cat"/></image></annotations>'
)
VOC = "<annotation><object><name>cat</name></object></annotation>"
SAVED = [{"file": "m.pth", "iteration": 1, "size": 2, "sha256": "0"}]
DONE = {"file": "a", "key": "k", "mask": "a.png", "confidence": 0.5, "reason": ""}
YAML = "_BASE_: dalnet://configs/toy_dalnet.yaml\nMODEL:\n  CAM: {SCALES: &a (1.0, 0.5)}\nSEED: 3\n"
OWN = "images: /a\ntags: null\nclasses: {cat: cat}\nsynonyms: {puppy: cat}\nheld_out: [a]\n"
RESULT = {"split": "a", "num_images": 1, "num_scored": 1, "weights_sha256": "0", "measurements": []}


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (16, 12)).save(stream, kind, **options)
    return stream.getvalue()


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def labels() -> bytes:
    array = np.array({"a": np.array([1, 0], np.uint8)}, dtype=object)
    return written(lambda stream: np.save(stream, array, allow_pickle=True))


def bundle() -> bytes:
    about = {"system": "DALNet", "class_names": ["background", "cat"], "prompt_names": ["cat"]}
    about |= {"config": "MODEL: {}", "versions": {}}
    return save({"a": torch.ones(1)}, {INFO: json.dumps(about)})


def parquet() -> bytes:
    table = pa.table({"file": ["a.jpg", "b.jpg"], "tags": [["cat"], []]})
    return written(lambda stream: pa.parquet.write_table(table, stream))


def vit_arrays() -> bytes:
    arrays = {
        "embedding/kernel": np.zeros((4, 4, 3, 4), np.float32),
        "embedding/bias": np.zeros(4, np.float32),
        "cls": np.zeros((1, 1, 4), np.float32),
        "Transformer/posembed_input/pos_embedding": np.zeros((1, 5, 4), np.float32),
    }
    return written(lambda stream: np.savez(stream, **arrays))


def weights() -> bytes:
    return written(lambda stream: torch.save({"model": {"a": torch.ones(1)}}, stream))


def shard() -> bytes:
    import tarfile

    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in (("a.jpg", b"x"), ("a.txt", b"cat"), ("a.nouns.json", b'["cat"]')):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return written(write)


FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000")
IMAGES = [encoded(kind) for kind in FORMATS]
MASKS = [encoded("PNG", "P"), encoded("PNG", "L"), encoded("TIFF", "I;16"), encoded("PNG", "LA")]


# Name of the file that a parser is given, how it is called, and files to begin with.
PARSERS: dict[str, tuple[Read, list[bytes | str]]] = {
    "tags.csv": (read_table, ["file,tags\na.jpg,cat;dog\n", "file;cat;dog\na.jpg;1;\n"]),
    "tags.json": (read_table, [json.dumps(x) for x in (COCO, LABEL_STUDIO, {"a": ["cat"]})]),
    "tags.jsonl": (read_table, [LINE]),
    "tags.xml": (read_table, [CVAT]),
    "coco.json": (open_annotations, [json.dumps(COCO)]),
    "segmentation.json": (
        read_segmentation,
        ['{"size": [12, 16], "counts": "0`1"}', "[[1, 2, 3]]"],
    ),
    "annotation.xml": (_names_in_xml, [VOC]),
    "image.jpg": (lambda path: read_image(str(path)), [*IMAGES, *MASKS]),
    "header.jpg": (read_header, [*IMAGES, *MASKS]),
    "mask.png": (lambda path: read_mask(str(path), (12, 16), 3), MASKS),
    "color_mask.png": (lambda path: read_color_mask(str(path)), [*IMAGES, *MASKS]),
    "config.yaml": (lambda path: load_config(str(path)), [YAML]),
    "description.yaml": (TaggedImages.load, [OWN]),
    "words.yaml": (read_class_words, ["classes: [cat]\nsynonyms: {puppy: cat}\n"]),
    "texts.yaml": (
        lambda path: read_texts(str(path), ["cat"]),
        ["words: {cat: cat}\nbackground: [a]"],
    ),
    "dataset_meta.json": (
        lambda path: read_mask_values(path.parent, ["cat"]),
        ['{"label_map": {"1": "cat"}}'],
    ),
    "classes.txt": (read_classes, ["cat: a cat\ndog\n"]),
    "list.txt": (read_list, ["a\nb.png\n# c\nx/a.jpg y/a.png\n"]),
    "labelmap.txt": (read_label_map, ["cat:1,2,3::\n"]),
    "weights.pth": (lambda path: read_file(str(path)), [weights()]),
    "bundle.safetensors": (config_of_checkpoint, [bundle()]),
    "labels.npy": (
        lambda path: convert_image_labels(path, path.with_name("t"), ["cat", "dog"]),
        [labels()],
    ),
    "embeddings.safetensors": (
        lambda path: read_class_embeddings(str(path), [["cat"]]),
        [save({"embeddings": torch.ones(1, 2)}, {"names": '["cat"]'})],
    ),
    "checkpoints.json": (lambda path: history.read_saved(path.parent), [json.dumps(SAVED)]),
    "run.json": (lambda path: read_record(path.parent), ['{"starts": [{"seed": 1}]}']),
    "results.json": (read_results, [json.dumps(RESULT)]),
    "metrics.json": (read_metrics, ['{"iteration": 1, "loss": 2.5}\n']),
    "manifest.jsonl": (read_manifest, [f'{{"settings": "{{}}"}}\n{json.dumps(DONE)}\n']),
    "captions.jsonl": (codeseg.caption_files.read_captions, [LINE]),
    "shard.tar": (lambda path: [*codeseg.caption_files.read_shard(path)], [shard()]),
    "list.parquet": (lambda path: find_list(str(path), ["background", "cat"]), [parquet()]),
    "shards.tar": (lambda path: find_shards(str(path)), [shard()]),
    "vit.npz": (read_vit, [vit_arrays()]),
    "mask.mat": (read_context_mask, [written(lambda s: savemat(s, {"LabelMap": np.ones((2, 2))}))]),
}


def look_at(path: Path, read: Read, finds: Path, known: set[object], data: bytes) -> None:
    """Give the parser a file, and keep what it does not answer."""
    for other in path.parent.iterdir():
        other.unlink()
    path.write_bytes(data)
    try:
        read(path)
    except UsageError as error:
        assert "\n" not in str(error)
    except Exception as error:
        place = (type(error), *(f[:2] for f in traceback.extract_tb(error.__traceback__)[-2:]))
        if place not in known:
            known.add(place)
            (finds / f"{path.name}.{len(known)}").write_bytes(data)
            traceback.print_exc()


def fuzz(name: str, minutes: float, finds: Path) -> None:
    """Fuzz one parser, and end the process."""
    read, seeds = PARSERS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        corpus, place = Path(folder, "corpus"), Path(folder, "place")
        corpus.mkdir()
        place.mkdir()
        for number, seed in enumerate(seeds):
            content = seed.encode() if isinstance(seed, str) else seed
            (corpus / str(number)).write_bytes(content)
        test = partial(look_at, place / name, read, finds, set())
        limits = ["-timeout=10", "-rss_limit_mb=3000", "-max_len=4096", "-verbosity=0"]
        options = [f"-max_total_time={60 * minutes:.0f}", "-print_final_stats=1"]
        artifacts = f"-artifact_prefix={finds}/{name}-"
        atheris.Setup([sys.argv[0], *limits, *options, artifacts, str(corpus)], test)
        atheris.Fuzz()


def main() -> None:
    """Fuzz parsers one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(PARSERS)
    parser.add_argument("parser", nargs="+", choices=PARSERS, metavar="PARSER", help=names)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each")
    parser.add_argument("--finds", type=Path, default=Path("output/fuzz"), help="folder")
    args = parser.parse_args()
    args.finds.mkdir(parents=True, exist_ok=True)
    logging.disable()
    os.environ["TQDM_DISABLE"] = "1"
    for name in args.parser:
        child = os.fork()  # what is imported once serves all
        if child == 0:
            fuzz(name, args.minutes, args.finds.resolve())
        _, status = os.waitpid(child, 0)
        print(f"{name}: ended with status {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
