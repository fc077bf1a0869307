"""Draw pictures of clothes in the style of Fashion-MNIST, a folder for each class, as input for docs/continue.md.

python docs/examples/clothes.py data/clothes
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

CLOTHES = {  # outlines in a square from 0 to 1
    "bag": [[(0.1, 0.4), (0.9, 0.4), (0.85, 0.85), (0.15, 0.85)], [(0.3, 0.4), (0.35, 0.2), (0.65, 0.2), (0.7, 0.4)]],
    "boot": [[(0.35, 0.1), (0.6, 0.1), (0.62, 0.6), (0.9, 0.75), (0.9, 0.9), (0.35, 0.9)]],
    "coat": [[(0.3, 0.1), (0.7, 0.1), (0.95, 0.7), (0.82, 0.75), (0.74, 0.5), (0.76, 0.95), (0.24, 0.95), (0.26, 0.5),
              (0.18, 0.75), (0.05, 0.7)]],
    "dress": [[(0.35, 0.08), (0.65, 0.08), (0.6, 0.4), (0.78, 0.95), (0.22, 0.95), (0.4, 0.4)]],
    "shirt": [[(0.3, 0.15), (0.7, 0.15), (0.95, 0.4), (0.85, 0.5), (0.72, 0.4), (0.72, 0.9), (0.28, 0.9), (0.28, 0.4),
               (0.15, 0.5), (0.05, 0.4)]],
    "trousers": [[(0.3, 0.08), (0.7, 0.08), (0.76, 0.95), (0.58, 0.95), (0.5, 0.35), (0.42, 0.95), (0.24, 0.95)]],
}  # fmt: skip


def draw(outlines: list[list[tuple[float, float]]], side: int = 28, scale: int = 4) -> Image.Image:
    """One picture: a bent outline, turned, of random brightness, on a noisy ground."""
    wide, high = random.uniform(0.6, 1.0), random.uniform(0.7, 1.0)
    grey = random.randint(90, 255)
    picture = Image.new("L", (side * scale, side * scale))
    pen = ImageDraw.Draw(picture)
    for outline in outlines:
        bent = [(0.5 + (x - 0.5) * wide, 0.5 + (y - 0.5) * high) for x, y in outline]
        pen.polygon([tuple((p + random.gauss(0, 0.03)) * side * scale for p in point) for point in bent], fill=grey)
    picture = picture.rotate(random.gauss(0, 8), resample=Image.Resampling.BILINEAR)
    small = picture.filter(ImageFilter.GaussianBlur(2)).resize((side, side), Image.Resampling.BOX)
    noise = Image.effect_noise((side, side), 60)
    return Image.blend(small, noise, 0.2)


def main() -> None:
    """Draw 100 training and 50 test pictures of each class."""
    random.seed(0)
    for part, count in (("train", 100), ("test", 50)):
        for name, outlines in CLOTHES.items():
            folder = Path(sys.argv[1]) / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                draw(outlines).save(folder / f"{i:03}.png")


if __name__ == "__main__":
    main()
