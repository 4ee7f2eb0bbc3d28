"""Colours can be read on the page that they are for."""

import pytest

from concordant.report.html_page import STYLE
from concordant.report.plot_style import DARK, LIGHT, colours


def luminance(colour):
    """Relative luminance of WCAG 2.2, from sRGB."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out(theme):
    assert contrast(theme.ink, theme.page) > 7 and contrast(theme.soft, theme.page) > 4.5
    for colour in (*theme.stages, *theme.palette):
        assert contrast(colour, theme.page) > (4.5 if theme is DARK else 2), colour


def test_the_dark_picture_has_the_background_of_the_dark_page():
    assert f"--page: {DARK.page}" in STYLE and LIGHT.page == "#ffffff"


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_names_have_different_colours(theme):
    names = ["base", "sft", "reward", "best_of_n", "dpo", "ppo", "mine", "yours"]
    assert len(set(colours(names, theme).values())) == len(names)
