"""Figures as images, for pages that hold no script."""

import shutil
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image
from playwright.sync_api import sync_playwright

_N_COLORS = 64  # an image takes a third of the space that it takes in full color


def write_png(figure: go.Figure, path: Path, *, width: int = 1000) -> None:
    """Draws a figure with Chromium, on white."""
    figure = go.Figure(figure).update_layout(paper_bgcolor="white", plot_bgcolor="white")
    html = figure.to_html(full_html=True, include_plotlyjs=True, config={"displayModeBar": False})
    with sync_playwright() as playwright:
        # The Chromium of the system: playwright's own would have to be downloaded.
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)
        size = {"width": width, "height": int(figure.layout.height)}
        tab = browser.new_page(viewport=size)
        tab.set_content(html)
        tab.wait_for_selector(".plot-container .main-svg")
        path.parent.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=path)
        browser.close()
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(_N_COLORS)
    reduced.save(path, optimize=True)
