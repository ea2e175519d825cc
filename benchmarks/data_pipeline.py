"""Speed of data preparation and of the input pipeline, compared with a plain PyTorch DataLoader.

    python -m benchmarks.data_pipeline

Generated 640 x 480 JPEGs in the layout of the REFER tool are prepared. Our pipeline and a DataLoader with as many
workers, which decodes, resizes and normalises with OpenCV, then take turns reading them at 448 x 448. It needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch

from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.prepare import prepare
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer

HEIGHT, WIDTH, SIDE, BATCH = 480, 640, 448, 16
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32) * 255, np.array([0.229, 0.224, 0.225], np.float32) * 255


class Files(torch.utils.data.Dataset):
    """A typical hand-written data set: files, OpenCV, NumPy."""

    def __init__(self, images: Path, masks: Path, count: int):
        cv2.setNumThreads(0)
        self.images, self.masks, self.count = images, masks, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.cvtColor(cv2.imread(str(self.images / f"{i}.jpg")), cv2.COLOR_BGR2RGB)
        image = (cv2.resize(image, (SIDE, SIDE)).astype(np.float32) - MEAN) / STD
        mask = cv2.imread(str(self.masks / f"{i}.png"), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 127
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(mask.astype(np.float32))


def make_source(directory: Path, count: int) -> None:
    """Writes a REFER data set of `count` images with a polygon and two expressions each, and the masks as PNG files."""
    random = np.random.default_rng(0)
    images, annotations, refs = [], [], []
    for name in ("images", "masks"):
        (directory / name).mkdir(parents=True)
    for i in range(count):
        # Coarse shapes with grain have the 100 KB of a typical photograph of this size.
        picture = cv2.resize(random.integers(0, 256, (24, 32, 3), np.uint8), (WIDTH, HEIGHT)).astype(np.int16)
        picture = np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(directory / f"images/{i}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = np.stack([320 + 180 * np.cos(angles), 240 + 150 * np.sin(angles)], 1) + random.normal(0, 8, (40, 2))
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": [points.ravel().tolist()]})
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
        cv2.imwrite(str(directory / f"masks/{i}.png"), mask)
        refs.append(
            {
                "ref_id": i,
                "ann_id": i,
                "image_id": i,
                "category_id": 1,
                "split": "train",
                "sentences": [
                    {"sent_id": 2 * i + k, "sent": f"the {word} blob"} for k, word in enumerate(("large", "middle"))
                ],
            }
        )
    (directory / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "blob"}]})
    )
    (directory / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def rate(make: Callable[[], Iterable], count: int, cores: int) -> float:
    """Images per second and core, start-up included."""
    started = time.perf_counter()
    for _ in make():
        pass
    return count / (time.perf_counter() - started) / cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    cores = args.workers
    with tempfile.TemporaryDirectory() as temporary:
        source, output = Path(temporary, "source"), Path(temporary, "data")
        make_source(source, args.images)
        config = load_config(overrides={"data_dir": str(output), "num_workers": cores, "image_size": SIDE})
        started = time.perf_counter()
        tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
        prepare(read_refer(source, source / "images", "unc"), "refcoco", output, tokenizer, workers=cores)
        print(
            f"conversion: {args.images / (time.perf_counter() - started) / cores:.0f} images/s per core "
            f"({cores} cores, start-up included)"
        )
        split = Split(config, "train")
        indices = np.random.default_rng(0).permutation(args.images * 2)[: args.images]
        files = torch.utils.data.Subset(
            Files(source / "images", source / "masks", args.images), (indices // 2).tolist()
        )

        def ours() -> Iterable:
            return split.train_batches(indices, BATCH, cores).create_dict_iterator(num_epochs=1)

        def theirs() -> Iterable:
            return torch.utils.data.DataLoader(files, BATCH, num_workers=cores, drop_last=True)

        rates = [(rate(ours, args.images, cores), rate(theirs, args.images, cores)) for _ in range(args.rounds)]
    for name, values in zip(("ours", "PyTorch DataLoader"), zip(*rates)):
        print(
            f"pipeline at {SIDE}: {name}: {np.median(values):.0f} images/s per core "
            f"(median of {args.rounds}, {min(values):.0f} to {max(values):.0f})"
        )
    print(f"ours / PyTorch: {np.median([a / b for a, b in rates]):.2f} (median of the ratios of each round)")


if __name__ == "__main__":
    main()
