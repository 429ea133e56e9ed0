# SPDX-License-Identifier: Apache-2.0
"""Label images on many machines by a Ray Data job, which goes on where it was stopped.

The job writes ``masks/*.parquet`` with the columns of :data:`SCHEMA`. Ray's own checkpoint, in
``checkpoint/``, says which images these hold.
"""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import ray
from ray.data.checkpoint import CheckpointConfig

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.data.image_io import decode_image, encode_mask
from dalnet.errors import UsageError
from dalnet.prediction import Predictor

from .cluster_input import LIST_COLUMNS, ClusterInput, TagReader, resolve, row_image
from .cluster_workers import ArrowFilter, sample_row
from .label import META_FILE, find_doubt, meta_content

SHARDS, CHECKPOINT, REJECTED, SETTINGS = "masks", "checkpoint", "rejected.parquet", "settings.json"
# One row an image: its label map as a PNG with a palette, the mean of the largest probability, and
# why a person should look at it; or, without these, the reason why it could not be labeled.
SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "mask": pa.binary(),
        "confidence": pa.float32(),
        "doubt": pa.string(),
        "rejected": pa.string(),
    }
)
# Images that an actor gets at a time: a few seconds of work, lost where the job is killed.
_BLOCK = 16
# What finds, filters, cuts and writes rows takes one CPU each; without any, the actors would wait
# for their images forever.
_OTHER_CPUS = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterOptions:
    """How a job is spread over a cluster.

    Attributes:
        actors: how many models work at once.
        cpus: of each; may be a fraction.
        gpus: of each; may be a fraction.
        shard_size: least number of images in a file of label maps but the last.
    """

    actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    shard_size: int = 256

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("actors", "shard_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{getattr(self, name)} is less than 1", name, "name 1 or more")
        for name in ("cpus", "gpus"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{getattr(self, name)} is no number from 0", name, "as 0.5")


class Labeler:
    """Labels blocks of images; each actor of a job has one, with a model of its own."""

    def __init__(
        self, predictor: Mapping[str, Any], source: str, images: str, untagged: str
    ) -> None:
        """Load the model.

        Args:
            predictor: arguments of :class:`~dalnet.prediction.Predictor`.
            source: "sem_seg" or "cam".
            images: see :func:`.cluster_input.row_image`.
            untagged: "unknown" or "none", see :class:`.cluster_input.TagReader`.
        """
        self._predictor = Predictor(**predictor)
        self._source, self._images = source, images
        self._tags = TagReader(self._predictor.class_names, untagged)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return a row of :data:`SCHEMA` for each row of the input."""
        return pa.Table.from_pylist([self.label(row) for row in rows.to_pylist()], SCHEMA)

    def label(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of one image, see :data:`SCHEMA`."""
        try:
            tags = self._tags.read(row)
            pixels = decode_image(row_image(row, self._images), row["file"])
            prediction = self._predictor.label(pixels, tags, self._source)
        except UsageError as error:
            return {"file": row["file"], "rejected": error.sentence("")}
        confidence = float(prediction.scores.max(axis=0).mean())
        return {
            "file": row["file"],
            "mask": encode_mask(prediction.labels),
            "confidence": confidence,
            "doubt": find_doubt(prediction.labels, prediction.class_names, tags, confidence),
        }


def label_on_cluster(
    images: ClusterInput,
    output: str,
    predictor: Mapping[str, Any],
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    source: str = "sem_seg",
    folder: str = "",
    untagged: str = "unknown",
    options: ClusterOptions | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Label images by a Ray Data job; images that an earlier call has finished are not done again.

    ``RAY_ADDRESS`` names the cluster; where it is not set, Ray runs on this machine alone.

    Args:
        images: the list or the shards.
        output: a folder or a URI, which all machines reach by this name; it gets ``masks/``,
            ``rejected.parquet``, ``dataset_meta.json``, ``settings.json`` and ``checkpoint/``.
        predictor: arguments of :class:`~dalnet.prediction.Predictor`, paths that all machines have.
        class_names: of the model, C + 1 names, background first.
        settings: what the label maps depend on, as the hash of the weights; plain values.
        source: "sem_seg" or "cam", which is used to choose among an image's tags.
        folder: the folder that the files of a list lie in; empty: they are paths or URIs.
        untagged: what an image without tags shows, "unknown" (it is rejected) or "none".
        options: how the job is spread.
        overwrite: replace label maps that were made with other settings.

    Returns:
        How many images ``output`` has label maps of, and how many were rejected.

    Raises:
        UsageError: the folder cannot be used, the job stopped, or no image could be labeled.
    """
    options = options or ClusterOptions()
    known = {**settings, "source": source, "folder": folder, "untagged": untagged}
    arguments = {"predictor": predictor, "source": source, "images": folder, "untagged": untagged}
    filesystem, root = resolve(output)
    try:
        _begin(filesystem, root, {**known, "images": images.digest}, overwrite)
        _write(filesystem, f"{root}/{META_FILE}", meta_content(class_names).encode())
        with _cluster(options):
            _run(images, output.rstrip("/") if "://" in output else root, arguments, options)
        return _write_rejected(filesystem, root)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[-1]
        hint = "correct the cause, then the same command goes on"
        raise UsageError(f"the job stopped ({cause})", output, hint) from error
    except OSError as error:
        raise UsageError(f"it cannot be used ({error})", output, "name another folder") from error


def _begin(
    filesystem: pa.fs.FileSystem, root: str, settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Write the settings into a new folder, or compare them with those that it holds."""
    text = json.dumps(settings, sort_keys=True, indent=1).encode()
    hint = "name another folder, or overwrite it"
    path = f"{root}/{SETTINGS}"
    if filesystem.get_file_info(path).type == pa.fs.FileType.File:
        with filesystem.open_input_stream(path) as stream:
            if stream.read() == text:
                return
        if not overwrite:
            raise UsageError("label maps of other images or settings", root, hint)
    elif filesystem.get_file_info(pa.fs.FileSelector(root, allow_not_found=True)) and not overwrite:
        raise UsageError("it is not empty", root, hint)
    for name in (SHARDS, CHECKPOINT):
        if filesystem.get_file_info(f"{root}/{name}").type == pa.fs.FileType.Directory:
            filesystem.delete_dir(f"{root}/{name}")
    filesystem.create_dir(root)
    _write(filesystem, path, text)


@contextlib.contextmanager
def _cluster(options: ClusterOptions) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine for a while."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics to its makers
    cpus = math.ceil(options.actors * options.cpus) + _OTHER_CPUS
    needed = {"CPU": cpus, "GPU": options.actors * options.gpus}
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        ray.init(ignore_reinit_error=True)
        for kind, number in needed.items():
            if (there := ray.cluster_resources().get(kind, 0)) < number:
                logger.warning("the cluster has %g %ss, the job waits for %g", there, kind, number)
        yield
        return
    # Numbers for Ray's bookkeeping, not the machine's: what feeds the actors takes little time.
    ray.init(address="local", num_cpus=cpus, include_dashboard=False)
    try:
        if (there := ray.cluster_resources().get("GPU", 0)) < needed["GPU"]:
            what = f"{options.actors} actors want {needed['GPU']:g} GPUs, there are {there:g}"
            raise UsageError(what, "gpus", "name fewer, or set RAY_ADDRESS to a cluster")
        yield
    finally:
        ray.shutdown()


def _run(
    images: ClusterInput, place: str, arguments: Mapping[str, Any], options: ClusterOptions
) -> None:
    """Read, label and write what the checkpoint does not say is written."""
    if images.is_list:
        rows = ray.data.read_parquet(images.files, filesystem=images.filesystem)
        rows = rows.select_columns(list(LIST_COLUMNS))
    else:
        decoder = partial(sample_row, suffixes=IMAGE_SUFFIXES)
        rows = ray.data.read_webdataset(images.files, filesystem=images.filesystem, decoder=decoder)
    rows.context.checkpoint_config = CheckpointConfig(
        "file",
        f"{place}/{CHECKPOINT}",
        delete_checkpoint_on_success=False,
        checkpoint_filter_cls=ArrowFilter,
    )
    rows.repartition(target_num_rows_per_block=_BLOCK).map_batches(
        Labeler,
        batch_size=_BLOCK,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_cpus=options.cpus,
        num_gpus=options.gpus,
        fn_constructor_kwargs=dict(arguments),
    ).write_parquet(f"{place}/{SHARDS}", min_rows_per_file=options.shard_size)


def _write_rejected(filesystem: pa.fs.FileSystem, root: str) -> tuple[int, int]:
    """Write the table of rejected images, and return how many are labeled and how many are not."""
    rows = pa.dataset.dataset(f"{root}/{SHARDS}", schema=SCHEMA, filesystem=filesystem)
    is_rejected = pc.field("rejected").is_valid()
    columns = {"file": pc.field("file"), "reason": pc.field("rejected")}
    rejected = rows.to_table(columns=columns, filter=is_rejected).sort_by("file")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(rejected, sink)
    _write(filesystem, f"{root}/{REJECTED}", sink.getvalue())
    labeled = rows.count_rows() - len(rejected)
    if not labeled:
        first = rejected.slice(0, 1).to_pylist()[0]
        what = f"none of {len(rejected)} images could be labeled"
        raise UsageError(what, first["file"], first["reason"])
    return labeled, len(rejected)


def _write(filesystem: pa.fs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Write a file, whole or not at all."""
    with filesystem.open_output_stream(f"{path}.unfinished") as stream:
        stream.write(content)
    filesystem.move(f"{path}.unfinished", path)
