# SPDX-License-Identifier: Apache-2.0
"""What is measured (the source) and how it was computed (the protocol)."""

from dataclasses import dataclass

from detectron2.config import CfgNode

from dalnet.errors import UsageError
from dalnet.modeling.meta_arch.segmentor import InferenceSettings

# Key on the command line -> name in tables. Also the order of the rows.
SOURCES = {
    "seg": "segmentation head",
    "cam": "CAM",
    "cam_inter": "intermediate CAM",
    "pseudo": "pseudo label",
}
# Key on the command line -> key in the model's output and so in Detectron2's metrics.
MODEL_KEYS = {"seg": "sem_seg", "cam": "cam", "cam_inter": "cam_inter", "pseudo": "pseudo_label"}
_PARTS = ("flip", "crf")


@dataclass(frozen=True)
class Protocol:
    """Single or several scales, with or without the mirror image, with or without dense CRF."""

    multi_scale: bool
    flip: bool
    crf: bool

    @classmethod
    def parse(cls, text: str) -> "Protocol":
        """Read ``ss`` or ``ms``, optionally followed by ``+flip`` and ``+crf``.

        Raises:
            UsageError: anything else.
        """
        scale, *parts = text.strip().split("+")
        if scale not in ("ss", "ms") or len(set(parts)) < len(parts) or set(parts) - set(_PARTS):
            raise UsageError(
                f"{text!r} is no protocol; write ss or ms, then +flip and +crf as wanted, "
                "as in ms+flip+crf."
            )
        return cls(scale == "ms", "flip" in parts, "crf" in parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Protocol":
        """Read from ``TEST`` how the model computes the head's scores."""
        head = InferenceSettings.from_config(cfg)
        return cls(cfg.TEST.MULTI_SCALE.ENABLED, head.flip, head.crf is not None)

    def __str__(self) -> str:
        """Return the form that :meth:`parse` reads."""
        return ("ms" if self.multi_scale else "ss") + "+flip" * self.flip + "+crf" * self.crf


# Of the CAMs that the model makes pseudo labels of, whatever ``TEST`` says.
CAM_PROTOCOL = Protocol(multi_scale=True, flip=True, crf=False)


@dataclass(frozen=True)
class Row:
    """One line of the results: a source under a protocol.

    Attributes:
        source: key of :data:`SOURCES`.
        protocol: how it is computed.
        scales: factors of the image's size.
    """

    source: str
    protocol: Protocol
    scales: tuple[float, ...]

    @classmethod
    def from_config(cls, cfg: CfgNode, source: str, protocol: Protocol) -> "Row":
        """Take the scales from ``cfg``.

        Multi-scale means ``TEST.MULTI_SCALE.SCALES`` for the head and ``MODEL.DALNET.CAM.SCALES``
        for CAMs and the pseudo labels made of them.
        """
        several = cfg.TEST.MULTI_SCALE.SCALES if source == "seg" else cfg.MODEL.CAM.SCALES
        return cls(source, protocol, tuple(several) if protocol.multi_scale else (1.0,))

    @property
    def is_cam(self) -> bool:
        """Whether a threshold makes labels of scores."""
        return self.source in ("cam", "cam_inter")

    @property
    def has_curve(self) -> bool:
        """Whether the row can be measured at every threshold: a CRF has seen only one."""
        return self.is_cam and not self.protocol.crf

    @property
    def needs_labels(self) -> bool:
        """Whether the image-level labels are given to it."""
        return self.source != "seg"

    def __str__(self) -> str:
        """Return ``source/protocol``."""
        return f"{self.source}/{self.protocol}"


def make_rows(cfg: CfgNode, sources: str, protocols: str) -> list[Row]:
    """Cross comma-separated sources and protocols; scales come from ``cfg``.

    Raises:
        UsageError: an unknown or missing source or protocol.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    parsed = [Protocol.parse(text) for text in protocols.split(",") if text.strip()]
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise UsageError(f"'{unknown[0]}' is no source; --sources takes {', '.join(SOURCES)}.")
    if not names or not parsed:
        raise UsageError(
            f"--sources {sources!r} --protocols {protocols!r}: give at least one of each."
        )
    return [
        Row.from_config(cfg, name, protocol)
        for name in sorted(set(names), key=list(SOURCES).index)
        for protocol in dict.fromkeys(parsed)
    ]


@dataclass(frozen=True)
class Source:
    """One kind of prediction: its key in the model's output, its name, its protocol in words."""

    key: str
    title: str
    protocol: str


def model_sources(cfg: CfgNode) -> list[Source]:
    """What ``model([item])`` computes and the training's evaluation measures, the head first."""
    return [
        Source(MODEL_KEYS[name], title, _describe(cfg, name)) for name, title in SOURCES.items()
    ]


def _describe(cfg: CfgNode, source: str) -> str:
    protocol = Protocol.from_config(cfg) if source == "seg" else CAM_PROTOCOL
    row, cam = Row.from_config(cfg, source, protocol), cfg.MODEL.CAM
    scales = ", ".join(map(str, row.scales))
    text = f"scales {scales}" if protocol.multi_scale else "single scale"
    text += " + mirror" * protocol.flip + " + CRF" * protocol.crf
    text += ", image labels given" * row.needs_labels
    if row.is_cam:
        text += f", threshold {cam.BACKGROUND_THRESHOLD}"
    elif row.needs_labels:
        text += f", PAR, thresholds {cam.LOW_THRESHOLD} / {cam.HIGH_THRESHOLD}"
    return text
