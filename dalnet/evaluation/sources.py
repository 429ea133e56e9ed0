# SPDX-License-Identifier: Apache-2.0
"""Describe what is measured: a source of a system under a protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from dalnet.errors import UsageError
from dalnet.modeling.meta_arch.segmentor import InferenceSettings, Source


@dataclass(frozen=True)
class Protocol:
    """Single or several scales, with or without the flipped image, with or without dense CRF."""

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
        if scale not in ("ss", "ms") or sorted(parts) != sorted({"flip", "crf"} & {*parts}):
            raise UsageError(
                f"{text!r} is no protocol",
                where="protocol",
                hint="write ss or ms, then +flip and +crf as wanted, as in ms+flip+crf",
            )
        return cls(scale == "ms", "flip" in parts, "crf" in parts)

    def __str__(self) -> str:
        """Return the form that :meth:`parse` reads."""
        return ("ms" if self.multi_scale else "ss") + "+flip" * self.flip + "+crf" * self.crf


@dataclass(frozen=True)
class Measurement:
    """One line of the results: a source under a protocol.

    Attributes:
        source: name of a source of the system.
        protocol: how it is computed.
        scales: factors on the image's side.
        kind, title: of the source, see :class:`dalnet.modeling.meta_arch.segmentor.Source`.
    """

    source: str
    protocol: Protocol
    scales: tuple[float, ...]
    kind: str
    title: str

    @classmethod
    def from_config(
        cls, cfg: CfgNode, name: str, source: Source, protocol: Protocol
    ) -> "Measurement":
        """Take several scales from ``TEST`` for probabilities, from ``MODEL.CAM`` for others."""
        node = cfg.MODEL.CAM if source.needs_labels else cfg.TEST.MULTI_SCALE
        scales = tuple(node.SCALES) if protocol.multi_scale else (1.0,)
        return cls(name, protocol, scales, source.kind, source.title)

    @property
    def needs_labels(self) -> bool:
        """Whether image-level labels are given to it."""
        return self.kind != "probabilities"

    @property
    def has_curve(self) -> bool:
        """Whether it can be measured at every threshold: a CRF has seen only one."""
        return self.kind == "cam" and not self.protocol.crf

    def __str__(self) -> str:
        """Return ``source/protocol``."""
        return f"{self.source}/{self.protocol}"


def require_sources(cfg: CfgNode, available: Mapping[str, Source]) -> None:
    """Refuse a system without sources, as a network that finds edges.

    Raises:
        UsageError: it is one.
    """
    if not available:
        what = f"{cfg.MODEL.META_ARCHITECTURE} predicts no classes of pixels"
        raise UsageError(what, cfg.MODEL.WEIGHTS or "MODEL.WEIGHTS", "name another checkpoint")


def make_measurements(
    cfg: CfgNode,
    available: Mapping[str, Source],
    sources: Sequence[str],
    protocols: Sequence[str],
) -> list[Measurement]:
    """Return each source under each protocol.

    Args:
        cfg: whose scales are used.
        available: the sources of the system, by name, in the order of tables.
        sources: some of their names; none for all.
        protocols: see :meth:`Protocol.parse`.

    Raises:
        UsageError: a source that the system has not, an unknown protocol, or none of either.
    """
    require_sources(cfg, available)
    names, parsed = {*sources} or {*available}, [Protocol.parse(text) for text in protocols]
    if not parsed:
        raise UsageError("no protocol is named", where="protocols", hint="write ss or ms")
    if unknown := sorted(names - available.keys()):
        raise UsageError(
            f"{cfg.MODEL.META_ARCHITECTURE} has no source {unknown[0]!r}",
            where="sources",
            hint=f"name some of {', '.join(available)}",
        )
    return [
        Measurement.from_config(cfg, name, source, protocol)
        for name, source in available.items()
        if name in names
        for protocol in dict.fromkeys(parsed)
    ]


def model_measurements(cfg: CfgNode, available: Mapping[str, Source]) -> list[Measurement]:
    """Return what ``model([record])`` computes in evaluation, one measurement for each source."""
    of_cams = Protocol(multi_scale=True, flip=cfg.MODEL.CAM.FLIP != "none", crf=False)
    settings = InferenceSettings.from_config(cfg)
    of_probabilities = Protocol(
        cfg.TEST.MULTI_SCALE.ENABLED, settings.flip, settings.crf is not None
    )
    return [
        Measurement.from_config(
            cfg, name, source, of_cams if source.needs_labels else of_probabilities
        )
        for name, source in available.items()
    ]
