"""Peak memory of data preparation, over all its processes, for RefCOCO's size and a tenth of it.

    python -m benchmarks.prepare_memory

The generated images are small (64 x 48) and have ten annotations each, with polygons of 30 points. The numbers of
images, referents and expressions are RefCOCO's. Memory is the proportional set size: shared pages count once. Linux
only.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 48, 64


def make_source(directory: Path, images: int) -> None:
    """Writes a REFER data set: per image ten annotations and two or three referents with three expressions each."""
    random = np.random.default_rng(0)
    (directory / "images").mkdir(parents=True)
    entries, annotations, refs = [], [], []
    for i in range(images):
        name = f"COCO_train2014_{i:012d}.jpg"
        cv2.imwrite(str(directory / "images" / name), random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        entries.append(
            {
                "id": i,
                "file_name": name,
                "height": HEIGHT,
                "width": WIDTH,
                "license": 1,
                "date_captured": "2013-11-14 11:18:45",
                "coco_url": f"http://example.com/train2014/{name}",
            }
        )
        angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        for k in range(10):
            centre, radius = random.uniform(10, 40, 2), random.uniform(4, 12)
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            annotations.append(
                {
                    "id": 10 * i + k,
                    "image_id": i,
                    "category_id": 1 + k % 3,
                    "iscrowd": 0,
                    "area": 100.5,
                    "bbox": [1.5, 2.5, 3.5, 4.5],
                    "segmentation": [points.ravel().round(2).tolist()],
                }
            )
        for k in range(3 if i % 2 else 2):
            number = len(refs)
            refs.append(
                {
                    "ref_id": number,
                    "ann_id": 10 * i + k,
                    "image_id": i,
                    "category_id": 1 + k % 3,
                    "split": "train",
                    "file_name": name,
                    "sent_ids": [3 * number + j for j in range(3)],
                    "sentences": [
                        {
                            "sent_id": 3 * number + j,
                            "sent": f"the thing number {k} from the left",
                            "raw": f"The thing number {k} from the left!",
                            "tokens": ["the", "thing", "number"],
                        }
                        for j in range(3)
                    ],
                }
            )
    (directory / "instances.json").write_text(
        json.dumps(
            {
                "images": entries,
                "annotations": annotations,
                "categories": [{"id": k, "name": f"thing {k}"} for k in (1, 2, 3)],
            }
        )
    )
    (directory / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def peak(command: list[str]) -> tuple[float, float]:
    """Peak memory of a command and its children in GB (10^9 bytes), and its seconds."""
    started, highest = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        highest = max(highest, sum(map(_memory, _family(process.pid))))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return highest / 1e9, time.perf_counter() - started


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    for images in (args.images // 10, args.images):
        with tempfile.TemporaryDirectory() as directory:
            make_source(Path(directory), images)
            size = Path(directory, "instances.json").stat().st_size / 1e6
            memory, seconds = peak(
                [
                    sys.executable,
                    "prepare_data.py",
                    "--dataset",
                    "refcoco",
                    "--annotations",
                    directory,
                    "--images",
                    f"{directory}/images",
                    "--output",
                    f"{directory}/data",
                    "--workers",
                    str(args.workers),
                ]
            )
            counts = json.loads(Path(directory, "data/meta.json").read_text())["splits"]["train"]
        print(
            f"{counts['images']:,} images, {counts['referents']:,} referents, {counts['expressions']:,} expressions, "
            f"instances.json of {size:.0f} MB: peak {memory:.2f} GB, {seconds:.0f} s with {args.workers} workers"
        )


if __name__ == "__main__":
    main()
