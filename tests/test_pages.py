# SPDX-License-Identifier: Apache-2.0
"""HTML pages: images come back from their text, and names that are no valid text are written."""

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from dalnet.pages import jpeg_base64, read_template, write_html


def test_an_image_is_read_again():
    image = Image.fromarray(np.full((5, 7, 3), 90, np.uint8))
    decoded = Image.open(io.BytesIO(base64.b64decode(jpeg_base64(image))))
    assert decoded.format == "JPEG" and decoded.size == (7, 5)
    assert np.abs(np.array(decoded, int) - 90).max() <= 2


def test_a_template_refuses_what_it_is_not_given():
    template = read_template("labeling", "check_page.html.j2", jpeg_base64=jpeg_base64)
    with pytest.raises(UndefinedError):
        template.render(title="<b>")


def test_a_page_with_a_name_that_is_no_text(tmp_path):
    write_html(tmp_path / "new" / "page.html", "\u72ac \udcff")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == "\u72ac ?"
