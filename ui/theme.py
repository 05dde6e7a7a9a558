"""How the page looks: colours, type and spacing for Gradio's components. The rest is in style.css.

Warm paper and ember, with one colour for each of the three legs: what, where, and how it looks. System fonts only.
"""

from pathlib import Path
from typing import Any

from gradio.themes import Base, Color, sizes

CSS = Path(__file__).parent / "style.css"
MARK = Path(__file__).parent / "mark.svg"

EMBER = Color(
    c50="#fff5ef", c100="#ffe6d7", c200="#fecbae", c300="#fca77c", c400="#f6834f", c500="#e4632d",
    c600="#c94a16", c700="#a63c12", c800="#853113", c900="#6c2a13", c950="#3b1308",
)  # fmt: skip
STONE = Color(
    c50="#faf8f5", c100="#f4f0ea", c200="#e8e1d7", c300="#d6ccbe", c400="#a89c8c", c500="#7b7064",
    c600="#5e554b", c700="#453e36", c800="#2d2823", c900="#201c18", c950="#161310",
)  # fmt: skip
SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> Base:
    return Base(
        primary_hue=EMBER,
        secondary_hue=EMBER,
        neutral_hue=STONE,
        font=SANS,
        font_mono=MONO,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
    ).set(
        body_background_fill="#f6f2ec",
        body_background_fill_dark="#161310",
        background_fill_primary="#fffdfa",
        background_fill_primary_dark="#201c18",
        background_fill_secondary="#f4f0ea",
        background_fill_secondary_dark="#1b1815",
        body_text_color="*neutral_800",
        body_text_color_dark="#efe8df",
        body_text_color_subdued="#6a6055",
        body_text_color_subdued_dark="#a89c8c",
        border_color_primary="#e8e1d7",
        border_color_primary_dark="#38322b",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_text_color="*neutral_500",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_title_text_size="13px",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="#cfc5b8",
        block_info_text_size="12px",
        block_info_text_color="#6a6055",
        block_info_text_color_dark="#a89c8c",
        block_radius="14px",
        form_gap_width="0px",
        layout_gap="14px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#161310",
        input_border_color="#ddd4c8",
        input_border_color_dark="#453e36",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_500",
        input_border_width="1px",
        input_radius="10px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px #e4632d2e",
        input_shadow_focus_dark="0 0 0 3px #e4632d45",
        button_border_width="1px",
        button_large_radius="12px",
        button_medium_radius="10px",
        button_small_radius="9px",
        button_large_text_weight="600",
        button_large_padding="11px 18px",
        button_small_padding="6px 12px",
        button_small_text_size="13px",
        button_transform_hover="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_primary_text_color="white",
        button_primary_shadow="0 1px 2px #3b130833, 0 6px 16px -8px #c94a1699",
        button_secondary_shadow="none",
        button_secondary_shadow_dark="none",
        button_secondary_shadow_hover="none",
        button_secondary_shadow_hover_dark="none",
        button_secondary_background_fill="#fffdfa",
        button_secondary_background_fill_dark="#2d2823",
        button_secondary_background_fill_hover="#f4f0ea",
        button_secondary_background_fill_hover_dark="#38322b",
        button_secondary_border_color="#ddd4c8",
        button_secondary_border_color_dark="#453e36",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="#efe8df",
        button_cancel_shadow="none",
        button_cancel_shadow_dark="none",
        button_cancel_shadow_hover="none",
        button_cancel_shadow_hover_dark="none",
        button_cancel_background_fill="transparent",
        button_cancel_background_fill_dark="transparent",
        button_cancel_background_fill_hover="#b3261e14",
        button_cancel_background_fill_hover_dark="#f2877f1f",
        button_cancel_border_color="#b3261e55",
        button_cancel_border_color_dark="#f2877f55",
        button_cancel_text_color="#a3221b",
        button_cancel_text_color_dark="#f2a59f",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_border_color_selected="*primary_600",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_border_width="0px",
        checkbox_label_padding="4px 2px",
        color_accent="*primary_600",
        color_accent_soft="#fff0e6",
        color_accent_soft_dark="#3a2117",
        loader_color="*primary_500",
        stat_background_fill="*primary_500",
    )


def launch_options() -> dict[str, Any]:
    """What `launch` needs to show the page as it is meant, and to keep to itself what visitors do."""
    icon = MARK.read_text().replace("#", "%23").replace("\n", "").replace('"', "'")
    return {
        "theme": theme(),
        "css_paths": [CSS],
        "head": f'<link rel="icon" href="data:image/svg+xml,{icon}"><meta name="theme-color" content="#c94a16">',
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "allowed_paths": [],
        "max_file_size": "2gb",  # the engine bounds what is in a file, and says so beside it
        "strict_cors": True,
    }
