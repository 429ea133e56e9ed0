# SPDX-License-Identifier: Apache-2.0
"""The report as a page: complete, escaped, true to its numbers, and filtered by a real browser."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.overlay import draw_heat
from dalnet.figures.sheet import SheetRow
from dalnet.report.gallery import make_card
from dalnet.report.page import Report, build_page, save_report

HOSTILE = "</script><script>alert('x')</script>&amp;\"'<b>"
NAMES = ["background", "cat", HOSTILE]
COLORS = voc_palette(3)
VOID = {"meta", "img", "link", "br", "input", "hr"}


@dataclass
class Node:
    tag: str
    attrs: dict = field(default_factory=dict)
    children: list = field(default_factory=list)

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag, **attrs):
        named = {key.rstrip("_"): value for key, value in attrs.items()}
        return [n for n in self.walk() if n.tag == tag and named.items() <= n.attrs.items()]

    @property
    def text(self):
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class Page(HTMLParser):
    """A page as a tree; refuses tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open = [Node("document")]
        self.feed(html)
        self.close()
        assert len(self.open) == 1, "not closed: " + self.open[-1].tag

    def handle_starttag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(self.open[-1].children[-1])

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(html):
    return Page(html).open[0]


def make_row(name, size=(30, 40), truth=1, prediction=1, **changes):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    maps = {
        "truth": np.full(size, truth),
        "prediction": np.full(size, prediction),
        "cam": np.linspace(0, 1, size[0] * size[1]).reshape(size),
        "pseudo_label": np.full(size, 255),
    }
    return SheetRow(name, photo, (0,), **(maps | changes))


def row(source, protocol, miou, threshold=None, scales=(1.0,), **more):
    return {
        "source": source,
        "protocol": protocol,
        "scales": list(scales),
        "flip": "flip" in protocol,
        "crf": {"iters": 10} if "crf" in protocol else None,
        "threshold": threshold,
        "miou": miou,
        "iou": {"background": miou + 10, "cat": miou - 10, HOSTILE: None},
        "labelled": 100.0,
        **more,
    }


def curve(values):
    thresholds = [round(i / len(values), 3) for i in range(len(values))]
    best = max(range(len(values)), key=lambda i: values[i])
    return {
        "curve": {"thresholds": thresholds, "miou": values},
        "best_threshold": thresholds[best],
        "best_miou": values[best],
    }


@pytest.fixture
def report():
    rows = [
        row("seg", "ss", 61.23),
        row("seg", "ms+flip+crf", 71.27, scales=(1.0, 1.5)),
        row("cam", "ss", 52.36, 0.45, **curve([30.0, 58.5, 44.0, 12.0])),
        row("pseudo", "ss", 66.6, [0.25, 0.7]),
    ]
    result = {"split": "val", "num_images": 9, "num_scored": 8, "weights_sha256": "f00d"}
    cards = [
        make_card(make_row("good"), ["best", "random"], {0: 99.0, 1: 91.5}, 95.25, COLORS),
        make_card(make_row(HOSTILE, prediction=2), ["worst"], {1: 0.0}, 0.0, COLORS),
        make_card(make_row("dull", truth=0, prediction=0), ["worst"], {0: 4.0}, 4.0, COLORS),
    ]
    return Report(
        title=HOSTILE,
        facts={"config": HOSTILE, "weights sha256": "f00d"},
        notes=[],
        results={HOSTILE: {**result, "rows": rows}},
        sources={"seg": "segmentation head", "cam": "CAM", "pseudo": "pseudo label"},
        metrics={
            "loss_cls": {19: 3.75, 39: 1.5, 59: 0.25},
            "lr": {19: 1e-4, 39: 2e-4},
            "cam/mIoU": {59: 47.12, 39: 40.0},
            "time": {19: 1.0},
        },
        training_protocols={"cam/mIoU": "CAM: ms+flip, scales 1.0, threshold 0.45"},
        cards=cards,
        gallery_text="chosen so",
        class_names=NAMES,
        colors=COLORS,
    )


def tables(page):
    """Each table as a list of rows of texts."""
    return [
        [[cell.text for cell in tr.children] for tr in table.all("tr")]
        for table in page.all("table")
    ]


def test_names_are_text_wherever_they_appear(report):
    html = build_page(report)
    page = parse(html)
    assert page.all("title")[0].text == page.all("h1")[0].text == HOSTILE
    assert len(page.all("script")) == 1  # its own
    assert not page.all("b")
    assert HOSTILE in [h.text for h in page.all("h3")]  # an image
    assert HOSTILE in [th.text for th in page.all("th")]  # a class
    assert HOSTILE in [option.text for option in page.all("option")]
    assert any(HOSTILE in img.attrs["alt"] for img in page.all("img"))
    assert page.all("script")[0].text.count("alert") == 0


def test_page_needs_nothing_else(report):
    page = parse(build_page(report))
    for node in page.walk():
        assert node.tag not in ("link", "iframe", "object", "base", "use", "image")
        assert not any(name.startswith("on") for name in node.attrs)
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            assert node.attrs.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
    style = page.all("style")[0].text
    assert "url(" not in style and "@import" not in style
    assert "http" not in style + page.all("script")[0].text


def test_links_and_labels_lead_somewhere(report):
    page = parse(build_page(report))
    ids = [node.attrs["id"] for node in page.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    links = [a.attrs["href"] for a in page.all("a")]
    assert links == ["#results", "#training", "#gallery"]
    assert {link[1:] for link in links} <= set(ids)
    assert [len(label.all("select")) for label in page.all("label")] == [1]
    assert all(svg.attrs.get("aria-label") or "aria-hidden" in svg.attrs for svg in page.all("svg"))


def test_table_states_what_every_number_is(report):
    table = tables(parse(build_page(report)))[0]
    assert table[0][:7] == ["source", "protocol", "scales", "mirror", "CRF", "threshold", "mIoU %"]
    assert table[1:] == [
        ["segmentation head", "ss", "1.0", "no", "no", "-", "61.2", "-", "100.0"],
        *[
            [
                "segmentation head",
                "ms+flip+crf",
                "1.0, 1.5",
                "yes",
                "yes",
                "-",
                "71.3",
                "-",
                "100.0",
            ]
        ],
        ["CAM", "ss", "1.0", "no", "no", "0.45", "52.4", "58.5 at 0.25", "100.0"],
        ["pseudo label", "ss", "1.0", "no", "no", "0.25 / 0.7", "66.6", "-", "100.0"],
    ]


def test_bars_are_as_long_as_their_numbers(report):
    page = parse(build_page(report))
    single, several = page.all("details")
    assert [d.all("summary")[0].text for d in (single, several)] == [
        "protocol ss",
        "protocol ms+flip+crf",
    ]
    assert ("open" in single.attrs) and ("open" not in several.attrs)
    (table,) = tables(single)
    assert table[0] == [
        "class",
        "segmentation head (scales 1.0)",
        "CAM (scales 1.0, threshold 0.45)",
        "pseudo label (scales 1.0, threshold 0.25 / 0.7)",
    ]
    assert table[2] == ["cat", "51.2", "42.4", "56.6"]
    assert table[3] == [HOSTILE, "-", "-", "-"]
    assert table[4] == ["mean", "61.2", "52.4", "66.6"]
    for cell in single.all("td"):
        (bar,) = cell.all("span", class_="bar")
        width = float(re.fullmatch(r"width:([\d.]+)%", bar.attrs["style"])[1])
        assert width == (0 if cell.text == "-" else float(cell.text))


def test_curves_are_drawn_from_metrics_and_thresholds(report):
    page = parse(build_page(report))
    titles = [figure.all("figcaption")[0].text for figure in page.all("figure", class_="chart")]
    assert titles == ["mIoU % of the CAM", "mIoU %", "loss_cls", "learning rate"]
    spoken = [svg.attrs["aria-label"] for svg in page.all("svg", role="img")]
    assert "from 30 at 0 to 12 at 0.75, between 12 and 58.5" in spoken[0]
    assert "CAM: ms+flip, scales 1.0, threshold 0.45: 47.1 at the end" in spoken[1]
    assert "from 3.75 at 19 to 0.25 at 59" in spoken[2]


def test_cards_hold_small_pictures_and_own_scores(report):
    portrait = make_card(make_row("tall", (900, 600)), ["random"], {}, None, COLORS)
    page = parse(build_page(replace(report, cards=[*report.cards, portrait])))
    cards = page.all("article")
    assert [card.attrs["data-groups"] for card in cards] == [
        *("best random", "worst", "worst", "random")
    ]
    assert [card.attrs["data-classes"] for card in cards] == ["1", "1 2", "1", "1"]
    texts = [card.all("p")[0].text for card in cards]
    assert texts[0] == "labels: cat; mIoU 95.2 % (background 99.0, cat 91.5)"
    assert texts[3] == "labels: cat; no truth, no IoU"
    titles = [caption.text for caption in cards[0].all("figcaption")]
    assert titles == ["photo", "truth", "CAM", "pseudo label", "prediction"]
    for card, size in ((cards[0], (40, 30)), (cards[3], (220, 330))):
        for img in card.all("img"):
            assert img.attrs["alt"]
            data = base64.b64decode(img.attrs["src"].split(",")[1], validate=True)
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, picture.size) == ("JPEG", size)


def test_legend_names_the_colours_that_are_shown(report):
    page = parse(build_page(report))
    (legend,) = page.all("ul", **{"aria-label": "Colours of the classes"})
    entries = {li.text: li.all("span")[0].attrs["style"] for li in legend.all("li")}
    assert list(entries) == [*NAMES, "ignored"]
    assert entries["cat"] == "background:rgb(128,0,0)"


def test_colorblind_cams_have_no_red_and_green():
    plain, safe = (
        make_card(make_row("x"), ["random"], {}, None, COLORS, colorblind) for colorblind in (0, 1)
    )
    assert plain.pictures["photo"] == safe.pictures["photo"]
    cam = np.array(Image.open(io.BytesIO(safe.pictures["CAM"]))).astype(int)
    own = make_row("x")
    blue_to_red = draw_heat(own.photo, own.cam).astype(int)
    # The last rows are the hottest: yellow, so green too, where the other scale is red alone.
    assert cam[-4:, :, 1].mean() > blue_to_red[-4:, :, 1].mean() + 40


@pytest.mark.parametrize(
    ("left_out", "links"),
    [
        ({"results": {}}, ["#training", "#gallery"]),
        ({"metrics": {}, "training_protocols": {}}, ["#results", "#gallery"]),
        ({"cards": []}, ["#results", "#training"]),
        ({"metrics": {"loss_cls": {3: float("nan")}}, "training_protocols": {}}, None),
    ],
)
def test_missing_parts_are_left_out_and_named(report, left_out, links):
    page = parse(build_page(replace(report, notes=["It <is> missing."], **left_out)))
    assert [p.text for p in page.all("p", class_="note")] == ["It <is> missing."]
    links = links or ["#results", "#gallery"]
    assert [a.attrs["href"] for a in page.all("a")] == links
    assert [f"#{s.attrs['id']}" for s in page.all("section")] == links


def test_results_of_a_split_without_masks(report):
    (result,) = report.results.values()
    page = parse(build_page(replace(report, results={"r": {**result, "rows": []}})))
    assert not page.all("table")
    assert "nothing was measured" in page.all("section")[0].text


def test_only_groups_that_exist_have_buttons(report):
    cards = [make_card(make_row("x", truth=0), ["random"], {}, None, COLORS)]
    page = parse(build_page(replace(report, cards=cards)))
    assert [button.text for button in page.all("button")] == ["all", "random"]


def test_failure_leaves_an_older_report_alone(report, tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    save_report(path, report)
    before = path.read_bytes()
    assert before == build_page(report).encode()

    def fail(self, data):
        self.open("wb").write(data[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UsageError, match="disk full"):
        save_report(path, replace(report, title="other"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_names_that_are_no_valid_text_are_written(report, tmp_path):
    save_report(tmp_path / "report.html", replace(report, title="caf\udce9"))
    assert "<title>caf?</title>" in (tmp_path / "report.html").read_text(encoding="utf-8")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_filters_by_the_address(report, tmp_path):
    other_group = make_card(make_row("x", prediction=2), ["best"], {1: 0.0}, 0.0, COLORS)
    path = tmp_path / "report.html"
    save_report(path, replace(report, cards=[*report.cards, other_group]))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    address = path.as_uri() + "#group=worst&class=2"
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    page = parse(done.stdout)
    shown = [card.all("h3")[0].text for card in page.all("article") if "hidden" not in card.attrs]
    assert shown == [HOSTILE]
    assert [b.text for b in page.all("button", **{"aria-pressed": "true"})] == ["worst"]
    assert "hidden" not in page.all("div", class_="controls")[0].attrs
    assert page.all("p", role="status")[0].text == "1 of 4 images"
