"""Draws docs/images/strip.png, the pictures at the top of README.md: image, expression and predicted mask.

Run from the root of the repository: ``python scripts/make_readme_strip.py``. Scenes and model are in ``assets/``.
"""

import io

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot

from coupalign import Predictor

EXAMPLES = (
    ("val_000028.png", "big plain blue circle"),
    ("val_000000.png", "large plain circle higher up\nthan the diamond on the far right"),
    ("val_000019.png", "the ring that is neither\nyellow nor white"),
    ("val_000038.png", "third heart from the right"),
)


def main() -> None:
    predictor = Predictor("assets/refshapes/model.safetensors")
    figure, axes = pyplot.subplots(2, len(EXAMPLES), figsize=(9, 5), dpi=100, layout="constrained")
    for (name, expression), (above, below) in zip(EXAMPLES, axes.T):
        image = np.asarray(Image.open(f"assets/examples/{name}").convert("RGB"))
        mask = predictor.predict(image, expression.replace("\n", " ")).mask
        above.imshow(image)
        above.set_title(f"“{expression}”", fontsize=9)
        below.imshow(np.where(mask[..., None], image, 230))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("predicted mask")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # 128 colours are enough for RefShapes and quarter the file.
    Image.open(drawn).convert("RGB").quantize(128).save("docs/images/strip.png", optimize=True)


if __name__ == "__main__":
    main()
