# SPDX-License-Identifier: Apache-2.0
"""The gallery of a run's report: cards with pictures, and the controls that filter them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dalnet.figures.overlay import IGNORE_COLOR, IGNORE_LABEL, draw_heat
from dalnet.figures.sheet import SheetRow

from .elements import Element, element

_WIDTH = 220  # pixels of a picture; larger ones are shrunk
_QUALITY = 82  # of the JPEG


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: of the image.
        groups: what it was chosen as.
        labels: classes 0..C-1 that the image is said to show.
        ious: IoU of the prediction in percent by class 1..C (background 0), on this image alone,
            of the classes that its truth shows; empty without a truth.
        miou: their mean, or None.
        values: label values 0..C (background 0) and 255 that its label maps show.
        pictures: JPEG by title.
    """

    name: str
    groups: tuple[str, ...]
    labels: tuple[int, ...]
    ious: Mapping[int, float]
    miou: float | None
    values: tuple[int, ...]
    pictures: Mapping[str, bytes]


def make_card(
    row: SheetRow,
    groups: Sequence[str],
    ious: Mapping[int, float],
    miou: float | None,
    colors: Sequence[Sequence[int]],
    colorblind: bool = False,
) -> Card:
    """Draw an image and forget all but its small pictures.

    Args:
        row: the image with its truth and predictions.
        groups: what it was chosen as.
        ious, miou: see :class:`Card`.
        colors: C + 1 RGB triples in 0..255, background first.
        colorblind: whether CAMs are drawn from blue to yellow, not over green to red.
    """
    values = sorted(
        {int(value) for label_map in row.label_maps() for value in np.unique(label_map)}
    )
    pictures = row.pictures(colors)
    if colorblind and row.cam is not None:
        pictures["CAM"] = draw_heat(row.photo, row.cam, cv2.COLORMAP_CIVIDIS)
    small = {title: _jpeg(picture) for title, picture in pictures.items()}
    return Card(row.name, tuple(groups), row.labels, ious, miou, tuple(values), small)


def _jpeg(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    if width > _WIDTH:
        size = (_WIDTH, max(round(height * _WIDTH / width), 1))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def gallery_parts(
    cards: Sequence[Card], class_names: Sequence[str], colors: Sequence[Sequence[int]]
) -> list[Element]:
    """Controls, legend and cards.

    Args:
        cards: in the order in which they are shown.
        class_names: C + 1, background first.
        colors: as many RGB triples in 0..255.
    """
    shown = sorted({value for card in cards for value in card.values})
    filtered = sorted({value for card in cards for value in _classes(card)})
    return [
        _controls(cards, [(value, class_names[value]) for value in filtered]),
        _legend(shown, class_names, colors),
        element("div", *(_draw_card(card, class_names) for card in cards), class_="cards"),
    ]


def _classes(card: Card) -> list[int]:
    """Classes 1..C by which the card is found: labels, truth, pseudo label or prediction."""
    foreground = {value for value in card.values if value not in (0, IGNORE_LABEL)}
    return sorted(foreground | {label + 1 for label in card.labels})


def _controls(cards: Sequence[Card], classes: Sequence[tuple[int, str]]) -> Element:
    """Hidden until the script runs, without which they would do nothing."""
    groups = ["all", *dict.fromkeys(group for card in cards for group in card.groups)]
    buttons = [
        element("button", group, type="button", data_group=group, aria_pressed="false")
        for group in groups
    ]
    options = [element("option", "all classes", value="all")]
    options += [element("option", name, value=value) for value, name in classes]
    return element(
        "div",
        element("div", *buttons, role="group", aria_label="Which images"),
        element("label", "class ", element("select", *options, id="class-filter")),
        element("p", role="status", id="gallery-status"),
        class_="controls",
        hidden="",
    )


def _legend(
    values: Sequence[int], class_names: Sequence[str], colors: Sequence[Sequence[int]]
) -> Element:
    entries = []
    for value in values:
        ignored = value == IGNORE_LABEL
        color = ",".join(str(int(c)) for c in (IGNORE_COLOR if ignored else colors[value]))
        swatch = element("span", class_="swatch", style=f"background:rgb({color})")
        entries.append(element("li", swatch, "ignored" if ignored else class_names[value]))
    return element("ul", *entries, class_="legend", aria_label="Colours of the classes")


def _draw_card(card: Card, class_names: Sequence[str]) -> Element:
    labels = ", ".join(class_names[label + 1] for label in card.labels)
    said = f"labels: {labels}" if labels else "no labels"
    figures = [
        _figure(title, jpeg, f"{title} of {card.name}, {said}")
        for title, jpeg in card.pictures.items()
    ]
    tags = [element("span", group, class_="tag") for group in card.groups]
    head = element("header", element("h3", card.name), *tags)
    return element(
        "article",
        head,
        element("p", f"{said}; {_score(card, class_names)}", class_="small"),
        element("div", *figures, class_="strip"),
        class_="card",
        data_groups=" ".join(card.groups),
        data_classes=" ".join(map(str, _classes(card))),
    )


def _score(card: Card, class_names: Sequence[str]) -> str:
    if card.miou is None:
        return "no truth, no IoU"
    parts = ", ".join(f"{class_names[value]} {iou:.1f}" for value, iou in card.ious.items())
    return f"mIoU {card.miou:.1f} % ({parts})"


def _figure(title: str, jpeg: bytes, description: str) -> Element:
    source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    picture = element("img", src=source, alt=description)
    return element("figure", picture, element("figcaption", title))
