"""How the page looks: a calm theme on Gradio's bundled fonts, and the style sheet and scripts that go with it.

Nothing here is fetched from another host.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors
from gradio.themes.utils.fonts import LocalFont

from ui.languages import LANGUAGES

ASSETS = Path(__file__).parent / "assets"

PINE = colors.Color(
    name="pine",
    c50="#eef7f4",
    c100="#d6ebe4",
    c200="#aed8cb",
    c300="#7fbfad",
    c400="#4f9f8b",
    c500="#2f8270",
    c600="#1f6b5b",
    c700="#18574b",
    c800="#14463d",
    c900="#0f352f",
    c950="#082220",
)
STONE = colors.Color(
    name="stone",
    c50="#faf8f4",
    c100="#f2efe9",
    c200="#e5e0d7",
    c300="#cfc8bc",
    c400="#a39b8e",
    c500="#6f685d",
    c600="#565047",
    c700="#413d37",
    c800="#2a2825",
    c900="#1d1c1a",
    c950="#141312",
)


_STYLES = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color": "*neutral_900",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_100",
    "background_fill_secondary_dark": "*neutral_800",
    "block_background_fill": "white",
    "block_background_fill_dark": "*neutral_900",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "*neutral_700",
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_label_background_fill": "*neutral_100",
    "block_label_background_fill_dark": "*neutral_800",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_200",
    "block_label_text_weight": "400",
    "block_title_text_color": "*neutral_900",
    "block_title_text_color_dark": "*neutral_100",
    "block_title_text_weight": "700",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "*neutral_700",
    "border_color_accent": "*primary_500",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "*primary_900",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "input_background_fill": "*neutral_50",
    "input_background_fill_dark": "*neutral_950",
    # The outline of a field is its only edge, so it keeps 3:1 against the page.
    "input_border_color": "#8b8478",
    "input_border_color_dark": "#777064",
    "input_border_width": "1px",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_300",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_large_text_weight": "700",
    "button_medium_text_weight": "400",
    "button_small_text_weight": "400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_400",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_300",
    "button_primary_text_color": "white",
    "button_primary_text_color_dark": "*neutral_950",
    "button_primary_border_color": "transparent",
    "button_secondary_background_fill": "*neutral_100",
    "button_secondary_background_fill_dark": "*neutral_800",
    "button_secondary_background_fill_hover": "*neutral_200",
    "button_secondary_background_fill_hover_dark": "*neutral_700",
    "button_secondary_text_color": "*neutral_900",
    "button_secondary_text_color_dark": "*neutral_100",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_600",
    "button_cancel_background_fill": "#fbe9e5",
    "button_cancel_background_fill_dark": "#4a2019",
    "button_cancel_background_fill_hover": "#f5d3cb",
    "button_cancel_background_fill_hover_dark": "#652c22",
    "button_cancel_text_color": "#8f2a17",
    "button_cancel_text_color_dark": "#ffd9d0",
    "button_cancel_border_color": "#e3b1a6",
    "button_cancel_border_color_dark": "#8a4334",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_dark": "transparent",
    "checkbox_label_background_fill_selected": "*primary_50",
    "checkbox_label_background_fill_selected_dark": "*primary_900",
    "checkbox_label_text_color_selected": "*primary_900",
    "checkbox_label_text_color_selected_dark": "*primary_50",
    "checkbox_background_color_selected": "*primary_600",
    "checkbox_background_color_selected_dark": "*primary_400",
    "checkbox_border_color": "#8b8478",
    "checkbox_border_color_dark": "#777064",
    "error_text_color": "#8f2a17",
    "error_text_color_dark": "#ffd9d0",
}
"""Gradio's theme variables; `*name` is a colour of the palette."""


def theme() -> gr.themes.Base:
    """Warm paper and pine green. The bundled SemiBold fonts lack letters, so weights are 400 and 700 only."""
    return gr.themes.Base(
        primary_hue=PINE,
        secondary_hue=PINE,
        neutral_hue=STONE,
        radius_size=gr.themes.sizes.radius_lg,
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(**_STYLES)


def css() -> str:
    return (ASSETS / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """A function for Gradio to call once the page is there."""
    own = {key: sentence for key, sentence in LANGUAGES["en"].items() if key.startswith("gradio_")}
    words = {
        language: {theirs: table[key] for key, theirs in own.items()} for language, table in LANGUAGES.items()
    }
    source = (ASSETS / "page.js").read_text(encoding="utf-8")
    return f"() => (\n{source})({json.dumps(words, ensure_ascii=False)})"
