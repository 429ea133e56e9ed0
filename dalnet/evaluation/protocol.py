# SPDX-License-Identifier: Apache-2.0
"""What is measured (the source) and how it was computed (the protocol)."""

from dataclasses import dataclass

from detectron2.config import CfgNode

from dalnet.errors import UsageError

# Key on the command line -> name in tables. Also the order of the rows.
SOURCES = {
    "seg": "segmentation head",
    "cam": "CAM",
    "cam_inter": "intermediate CAM",
    "pseudo": "pseudo label",
}
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

    def __str__(self) -> str:
        """Return the form that :meth:`parse` reads."""
        return ("ms" if self.multi_scale else "ss") + "+flip" * self.flip + "+crf" * self.crf


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

    Multi-scale means ``TEST.MULTI_SCALE.SCALES`` for the head and ``MODEL.DALNET.CAM.SCALES`` for
    CAMs and the pseudo labels made of them.

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
    rows = []
    for name in sorted(set(names), key=list(SOURCES).index):
        several = cfg.TEST.MULTI_SCALE.SCALES if name == "seg" else cfg.MODEL.DALNET.CAM.SCALES
        for protocol in dict.fromkeys(parsed):
            rows.append(Row(name, protocol, tuple(several) if protocol.multi_scale else (1.0,)))
    return rows
