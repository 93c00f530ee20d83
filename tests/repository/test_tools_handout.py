"""Handouts: one PDF for each page, without what is folded."""

import re

import pytest

from tools import browser, handout
from wsfp_helpers.common.errors import InputError

LONG = '<p style="height: 5000px">long</p>'


def test_without_pages_one_is_told_what_to_do(tmp_path):
    with pytest.raises(InputError, match="run `make tutorial` first"):
        handout.print_pages(tmp_path)


@pytest.mark.skipif(browser.find_chromium() is None, reason="Chromium is not installed")
def test_what_is_folded_is_not_printed(tmp_path):
    (tmp_path / "00_a.html").write_text(f"<h1>A</h1><details><summary>Solution</summary>{LONG}</details>")
    (tmp_path / "01_b.html").write_text(f"<h1>B</h1><details open><summary>Words</summary>{LONG}</details>")
    pages = [len(re.findall(rb"/Type /Page\b", path.read_bytes())) for path in handout.print_pages(tmp_path)]
    assert pages[0] == 1 and pages[1] > 3
    assert not list((tmp_path / "handout").glob(".wsfp*"))
