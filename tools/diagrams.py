"""Write notebooks/figures/NAME.svg, the diagrams of the notebooks' texts, and NAME.png, which notebooks carry.

usage: python -m tools.diagrams           write them; Chromium draws a PNG where its SVG has changed
       python -m tools.diagrams --check   exit with 1 when a committed diagram is not what this file gives

Colab opens a notebook without the files beside it, and shows neither attachments (googlecolab/colabtools issue 3836)
nor SVG inside a notebook (issue 2092); a PNG in the text of a cell is what it writes itself, and shows everywhere.
"""

import argparse
import base64
import hashlib
import html
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tools.browser import open_tab
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path

FOLDER = Path(__file__).parents[1] / "notebooks" / "figures"
DATA, NETWORK, OURS = ("#E8F1F8", "#0072B2"), ("#FDF1E3", "#B35900"), ("#E6F4EE", "#00704F")
"""Fill and edge of what is data, what is a network or a rule, and what is ours and not the paper's."""
INK = "#222222"


@dataclass
class Diagram:
    """Boxes and arrows on a grid of pixels; ``width`` and ``height`` of the whole."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, w: int, h: int, text: str, kind: tuple[str, str] = DATA) -> "Diagram":
        """A box with its top left corner at (x, y); lines of the text are parted by a newline."""
        fill, edge = kind
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>'
        )
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 5 + 18 * (i - (len(lines) - 1) / 2), line)
        return self

    def text(self, x: float, y: float, line: str, anchor: str = "middle", size: int = 14) -> "Diagram":
        """One line of text on the baseline y."""
        style = f'text-anchor="{anchor}" font-size="{size}" fill="{INK}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{html.escape(line)}</text>')
        return self

    def arrow(self, *points: tuple[int, int]) -> "Diagram":
        """A line through the points with a head at the last one."""
        path = " ".join(f"{'ML'[i > 0]}{x} {y}" for i, (x, y) in enumerate(points))
        self.parts.append(f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.6" marker-end="url(#head)"/>')
        return self

    def svg(self, title: str) -> str:
        """The file's text."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="Helvetica, Arial, sans-serif">\n'
            f"<title>{html.escape(title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def _course() -> Diagram:
    d = Diagram(900, 250)
    top = [
        "picture + list\nof its parts",
        "01  what lists\nteach, and what not",
        "02 CCD\nhide a part, strike\nit off (Eq. 1-2)",
    ]
    top += ["03 TCD\nwords judge the\nmaps (Eq. 3-16)"]
    for i, text in enumerate(top):
        d.box(10 + 225 * i, 20, 195, 80, text, NETWORK if i > 1 else DATA)
    for i in range(3):
        d.arrow((205 + 225 * i, 60), (233 + 225 * i, 60))
    low = ["04 FCAM\na map for each part", "05 pseudo labels\na class for each pixel", "06 a parser learns\nfrom them"]
    low += ["07 other faces,\nreal people"]
    for i, text in enumerate(low):
        d.box(685 - 225 * i, 150, 195, 80, text, NETWORK if i == 2 else DATA)
    d.arrow((782, 100), (782, 148))
    for i in range(3):
        d.arrow((685 - 225 * i, 190), (657 - 225 * i, 190))
    return d


def _ccd() -> Diagram:
    d = Diagram(920, 190)
    top = [("picture x", DATA), ("detector:\n“eye”", NETWORK), ("several boxes,\nno side", DATA)]
    top += [
        ("Eq. 1: left\nor right?", NETWORK),
        ("chance:\none half", NETWORK),
        ("Eq. 2: picture x̂,\nblack boxes", DATA),
    ]
    for i, (text, kind) in enumerate(top):
        d.box(10 + 153 * i, 20, 130, 60, text, kind)
        if i:
            d.arrow((10 + 153 * i - 23, 50), (10 + 153 * i - 1, 50))
    d.box(10, 115, 283, 55, "label y: skin, nose, l_eye, r_eye, ...")
    d.box(622, 115, 283, 55, "label ŷ: skin, –, l_eye, –, ...")
    d.arrow((293, 142), (621, 142)).arrow((687, 80), (687, 113))
    return d.text(458, 134, "what is masked is struck off")


def _tcd() -> Diagram:
    d = Diagram(940, 330)
    d.box(10, 60, 120, 55, "masked\npicture x̂").box(160, 60, 90, 55, "ViT", NETWORK).arrow((130, 87), (158, 87))
    d.box(290, 20, 150, 50, "K class tokens").box(290, 110, 150, 50, "N patch tokens")
    d.arrow((250, 80), (270, 80), (270, 45), (288, 45)).arrow((250, 95), (270, 95), (270, 135), (288, 135))
    d.box(475, 20, 130, 50, "projector (Eq. 3)", NETWORK).box(475, 110, 130, 50, "conv, σ: P\n(Eq. 4)", NETWORK)
    d.arrow((440, 45), (473, 45)).arrow((440, 135), (473, 135))
    d.box(645, 20, 110, 50, "v_cls").box(645, 100, 110, 50, "x̂ · P → v_ffc").box(
        645, 180, 110, 50, "x̂ · (1-P)\n→ v_bfc"
    )
    d.arrow((605, 45), (643, 45)).arrow((605, 130), (643, 125)).arrow((605, 145), (625, 145), (625, 205), (643, 205))
    d.box(10, 260, 300, 50, "“a photo of a face with nose”").box(345, 260, 130, 50, "text encoder", NETWORK)
    d.box(645, 260, 110, 50, "v_txt").arrow((310, 285), (343, 285)).arrow((475, 285), (643, 285))
    d.text(775, 40, "nearer to its own text,", "start").text(775, 58, "away from the others", "start")
    d.text(775, 120, "nearer to its own text,", "start").text(775, 138, "away from the others", "start")
    return d.text(775, 210, "away from its own text", "start").text(775, 290, "frozen: it only judges", "start")


def _fcam() -> Diagram:
    d = Diagram(940, 160)
    d.box(10, 15, 190, 55, "attention of class\ntokens to patches").box(
        10, 90, 190, 55, "patch map, negative\nvalues cut off"
    )
    d.box(250, 52, 110, 55, "√(a · b)", NETWORK).arrow((200, 42), (225, 42), (225, 72), (248, 72))
    d.arrow((200, 117), (225, 117), (225, 90), (248, 90))
    steps = [
        "spread along the\npatches' affinity",
        "+ mirror image\n(left ⇄ right!)",
        "+ scales",
        "stretched\nto 0 .. 1",
    ]
    x = 360
    for text, w in zip(steps, (150, 130, 90, 100), strict=True):
        d.arrow((x, 80), (x + 24, 80)).box(x + 26, 52, w, 55, text, NETWORK)
        x += 26 + w
    return d


def _pseudo() -> Diagram:
    d = Diagram(940, 235)
    d.text(10, 50, "I   the paper", "start", 15)
    d.box(150, 15, 250, 60, "maps of the parts that\ny names, and θ = 0.5").box(
        470, 15, 190, 60, "the strongest wins", NETWORK
    )
    d.box(730, 15, 190, 60, "pseudo label").arrow((400, 45), (468, 45)).arrow((660, 45), (728, 45))
    d.text(10, 165, "II  ours", "start", 15)
    d.box(150, 100, 250, 55, "frozen features:\nclusters without names", OURS)
    d.box(150, 170, 250, 55, "y, boxes, maps:\nevidence for names", OURS)
    d.box(470, 133, 190, 60, "named regions,\nparts drawn in boxes", OURS).box(730, 133, 190, 60, "pseudo label", OURS)
    d.arrow((400, 127), (435, 127), (435, 155), (468, 155)).arrow((400, 197), (435, 197), (435, 172), (468, 172))
    return d.arrow((660, 163), (728, 163))


def _stage_two() -> Diagram:
    d = Diagram(920, 175)
    d.box(10, 15, 110, 55, "48 faces").box(160, 15, 90, 55, "maps", NETWORK).box(290, 15, 140, 55, "pseudo labels")
    d.box(160, 100, 270, 55, "copies: zoom, turn, bend, ...").box(490, 57, 90, 55, "loss", NETWORK)
    d.box(620, 57, 90, 55, "parser", NETWORK).box(750, 57, 155, 55, "any picture,\nno label needed")
    d.arrow((120, 42), (158, 42)).arrow((250, 42), (288, 42)).arrow((65, 70), (65, 127), (158, 127))
    d.arrow((430, 42), (460, 42), (460, 77), (488, 77)).arrow((430, 127), (460, 127), (460, 95), (488, 95))
    return d.arrow((580, 85), (618, 85)).arrow((710, 85), (748, 85))


def _decoder() -> Diagram:
    d = Diagram(940, 205)
    d.box(10, 15, 90, 55, "picture").box(130, 15, 120, 55, "frozen trunk", NETWORK).box(
        280, 15, 120, 55, "tokens\n20 x 20"
    )
    d.box(430, 15, 150, 55, "1x1, 3x3, 3x3\n40 x 40", NETWORK).box(610, 15, 90, 55, "80 x 80", NETWORK)
    d.box(730, 15, 90, 55, "160 x 160", NETWORK).box(850, 15, 80, 55, "19 scores\na pixel")
    for x in (100, 250, 400, 580, 700, 820):
        d.arrow((x, 42), (x + 28, 42))
    d.box(130, 125, 150, 55, "stem\n160 x 160 x 16", NETWORK).box(430, 125, 150, 55, "80 x 80 x 32", NETWORK)
    d.arrow((55, 70), (55, 152), (128, 152)).arrow((280, 152), (428, 152)).arrow((580, 140), (655, 140), (655, 72))
    return d.arrow((205, 180), (205, 195), (775, 195), (775, 72))


def _transfer() -> Diagram:
    d = Diagram(900, 250)
    d.box(10, 95, 200, 60, "celeb-like: studio light,\nfrontal; 19 classes")
    rows = ["LaPa-like: turned heads,\nsunglasses, coloured light", "Helen-like: smaller faces,\nnoise, compression"]
    rows += ["FRL London: real people,\na studio"]
    for i, text in enumerate(rows):
        d.box(300, 15 + 80 * i, 260, 60, text)
        d.arrow((210, 125), (255, 125), (255, 45 + 80 * i), (298, 45 + 80 * i))
    d.text(590, 85, "11 classes, sides of the viewer", "start").text(
        590, 210, "outlines drawn from 189 points", "start"
    )
    return d.text(110, 180, "sides of the person")


DIAGRAMS = {
    "course": (_course, "The way of the course, notebook by notebook"),
    "ccd": (_ccd, "CCD: from a picture and its label to a masked picture and a shorter label"),
    "tcd": (_tcd, "TCD: class tokens and masked pictures are judged by texts"),
    "fcam": (_fcam, "From attention and patch map to an activation map"),
    "pseudo": (_pseudo, "Two ways from maps to a pseudo label"),
    "stage_two": (_stage_two, "A parser learns from pseudo labels"),
    "decoder": (_decoder, "The light decoder on the frozen trunk"),
    "transfer": (_transfer, "One kind of faces to learn from, three to be tested on"),
}


def generate() -> dict[Path, str]:
    """Path and text of every diagram."""
    return {FOLDER / f"{name}.svg": draw().svg(title) for name, (draw, title) in DIAGRAMS.items()}


def embedded() -> dict[str, str]:
    """For each diagram ``figures/NAME.svg``, as the sources of the notebooks name it, its PNG as a data address."""
    pictures = {path.name: path.with_suffix(".png").read_bytes() for path in generate()}
    return {
        f"figures/{name}": f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in pictures.items()
    }


def drawn_from(path: Path) -> str | None:
    """Digest of the SVG text of which the PNG file was drawn."""
    if not path.exists():
        return None
    with Image.open(path, formats=["PNG"]) as picture:
        return picture.info.get("Comment")


def digest(text: str) -> str:
    """Of an SVG's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def draw_pngs(texts: dict[Path, str]) -> None:
    """Draw each SVG text as the PNG of its path, half as large again, for sharp screens, in 16 colours."""
    with open_tab(1000, 600) as tab:
        for path, text in texts.items():
            tab.set_content(f'<body style="margin: 0; zoom: 1.5">{text}</body>')
            picture = Image.open(io.BytesIO(tab.locator("svg").screenshot())).convert("RGB")
            about = PngInfo()
            about.add_text("Comment", digest(text))
            with atomic_path(path) as part:
                picture.quantize(16, dither=Image.Dither.NONE).save(part, "PNG", optimize=True, pnginfo=about)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    check, drawings = parser.parse_args().check, generate()
    old = {path.with_suffix(".png"): text for path, text in drawings.items()}
    old = {path: text for path, text in old.items() if drawn_from(path) != digest(text)}
    if check:
        differ = [path for path, text in drawings.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in (*differ, *old):
            print(f"{path} differs: run python -m tools.diagrams")
        return bool(differ or old)
    with exit_on_bad_input():
        for path, text in drawings.items():
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8")
        if old:
            draw_pngs(old)
    print(f"written to {FOLDER}; next: make notebooks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
