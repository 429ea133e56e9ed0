# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG as trees: what is put in as text cannot come out as markup."""

from xml.etree.ElementTree import Element, tostring

__all__ = ["Element", "element", "to_html"]


def element(tag: str, *children: str | Element | None, **attributes: object) -> Element:
    """Make an element of HTML or SVG.

    Args:
        tag: its name.
        children: text, taken literally, and elements, in order; None is left out.
        attributes: a trailing ``_`` is dropped (``class_``), any other becomes ``-``
            (``aria_label``); None is left out.
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    node = Element(tag, {key: str(value) for key, value in named.items() if value is not None})
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif child is not None:
            _append_text(node, child)
    return node


def _append_text(node: Element, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text


def to_html(node: Element) -> str:
    """Write an element as HTML; all text and attributes are escaped."""
    return tostring(node, encoding="unicode", method="html")
