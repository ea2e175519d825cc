"""Predictions for image files, written as predict.py writes them, for a program that runs an exported model."""

import csv
import hashlib
import io
import json
import os
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import cv2
import numpy as np
from model_inputs import RequestError, decode_image, read

COLOUR = (255, 64, 32)  # RGB
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def add_arguments(parser):
    """Adds the options that say what to predict and where to write it."""
    parser.add_argument("--image", action="append", default=[], metavar="PATH", help="image or directory; repeatable")
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT", help="what to find; repeatable")
    text = "JSON Lines (.jsonl) or CSV with expressions and images, instead of --expression"
    parser.add_argument("--expressions", metavar="FILE", help=text)
    parser.add_argument("--output", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--probability", action="store_true", help="also write probability maps, .probability.npy")


def main(parser, argv, load):
    """Runs a program: ``load(args)`` makes the model. Returns the exit status, 2 if an image could not be read.

    A model is a ``ModelInputs``.
    """
    args = parser.parse_args(argv)
    if bool(args.expression) == bool(args.expressions):
        parser.error("pass what to find, either as --expression or as --expressions FILE")
    warnings.simplefilter("ignore")  # Pillow's, about metadata and about sizes
    os.environ.setdefault("GLOG_v", "4")  # otherwise the error line is lost in Lite's log
    try:
        requests = find_requests(args.image, args.expression, args.expressions)
        return 2 if predict(load(args), requests, args.output, args.probability) else 0
    except (RequestError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def predict(model, requests, output, probability):
    """Writes the files of each prediction and prints its line. Returns the number of images that could not be read."""
    for expression in dict.fromkeys(text for texts in requests.values() for text in texts):
        model.encode(expression)  # report a wrong expression before anything is written
        for warning in model.warnings(expression):
            print(f"warning: {ascii(expression)}: {warning}", file=sys.stderr)
    output = Path(output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    kinds = {"mask": ".mask.png", "overlay": ".overlay.png"}
    if probability:
        kinds["probability"] = ".probability.npy"
    records, failed, total = [], 0, sum(map(len, requests.values()))
    for path, texts in requests.items():
        try:
            content = read(path, "image")
            rgb = decode_image(content, path)
        except RequestError as error:
            failed += 1
            print(json.dumps({"image": str(path), "error": str(error)}), flush=True)
            continue
        made_from = hashlib.sha256(model.identity.encode() + hashlib.sha256(content).digest()).hexdigest()
        stems = {text: output / file_stem(path, text) for text in texts}
        names = {text: {kind: f"{stem}{suffix}" for kind, suffix in kinds.items()} for text, stem in stems.items()}
        saved = {text: _saved(f"{stem}.json", names[text], made_from) for text, stem in stems.items()}
        answers = model.answers(rgb, [text for text in texts if not saved[text]])
        for text, files in names.items():
            record = saved[text]
            if not record:
                record = _write(model, path, rgb, text, stems[text], files, made_from, next(answers))
            records.append({**record, "image": str(path), **files})
            shown = {name: each for name, each in records[-1].items() if name not in ("segmentation", "made_from")}
            print(json.dumps(shown), flush=True)
            if shown.get("nothing_fits"):
                print(f"warning: {ascii(str(path))}, {ascii(text)}: {shown['warnings'][0]}", file=sys.stderr)
            if sys.stderr.isatty():
                print(f"{len(records)} of {total}", file=sys.stderr, end="\r")
    write_file(output / "predictions.json", json.dumps(coco_file(records)).encode() + b"\n")
    return failed


def _saved(json_file, files, made_from):
    try:
        record = json.loads(Path(json_file).read_text(encoding="utf-8"))
        return record if record["made_from"] == made_from and all(map(os.path.isfile, files.values())) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(model, path, rgb, expression, stem, files, made_from, answer):
    mask, probability, lines = model.at_size(answer, rgb, expression)
    _, existence, nothing_fits = answer
    json_file = Path(f"{stem}.json")
    if json_file.exists():
        json_file.unlink()  # or it would describe another prediction after an interruption
    write_file(files["mask"], cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())
    write_file(files["overlay"], cv2.imencode(".png", overlay(rgb, mask)[..., ::-1])[1].tobytes())
    if "probability" in files:
        buffer = io.BytesIO()
        np.save(buffer, probability)
        write_file(files["probability"], buffer.getvalue())
    judged = {} if existence is None else {"existence": round(existence, 6), "nothing_fits": nothing_fits}
    record = {
        "image": str(path),
        "expression": expression,
        **{kind: os.path.basename(name) for kind, name in files.items()},
        "area": round(float(mask.mean()), 6),
        "box": box(mask),
        "score": round(float(probability.max()), 6),
        **judged,
        "warnings": lines,
        "segmentation": run_lengths(mask),
        "made_from": made_from,
    }
    write_file(json_file, json.dumps(record).encode() + b"\n")
    return record


def find_requests(images, expressions, file=None):
    """Returns the expressions of each image, as coupalign.inference.request_file does. Raises: RequestError."""
    rows = read_requests(file) if file else [("", text) for text in expressions]
    requests = {}
    if rows[0][0]:
        root = Path(images[0]).expanduser() if images else Path(file).parent
        if len(images) > 1 or not root.is_dir():
            raise RequestError(f"{file} names its images: pass their directory alone as --image, or leave --image out")
        for name, text in rows:
            requests.setdefault(root / name, []).append(text)
    elif images:
        requests = {path: [text for _, text in rows] for image in images for path in find_images(image)}
    else:
        raise RequestError("no images: pass --image, or name an image in each line of --expressions")
    return {path: list(dict.fromkeys(texts)) for path, texts in requests.items()}


def find_images(path):
    """Returns a file, or the images of a directory. Raises: RequestError."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not found:
        raise RequestError(f"directory {path} has no images ({' '.join(IMAGE_SUFFIXES)}): check its path")
    return found


def read_requests(file):
    """Returns image, "" in a file without images, and expression of each line. Raises: RequestError."""
    try:
        content = read(file, "file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not text in UTF-8: save it as UTF-8") from error
    suffix = Path(file).suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise RequestError(f"{file}: expected a name that ends in .jsonl (JSON Lines) or .csv")
    rows = []
    for number, row in (_csv if suffix == ".csv" else _json_lines)(content, file):
        image, text = row.get("image", ""), row.get("expression")
        if not isinstance(image, str) or not isinstance(text, str) or re.search("[\ud800-\udfff]", image + text):
            raise RequestError(f"{file} line {number}: expected an expression and, if needed, an image, as text")
        if not any(map(str.isalnum, text)):
            raise RequestError(f"{file} line {number}: the expression {text!r} has no word: say which object is meant")
        if rows and bool(image) != bool(rows[0][0]):
            raise RequestError(f"{file} line {number}: either every line has an image, or none: complete the others")
        rows.append((image, text))
    if not rows:
        raise RequestError(f"{file} has no expressions: write one per line")
    return rows


def _json_lines(content, file):
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RequestError(f"{file} line {number}: not JSON ({error}): write one object per line") from error
            yield number, row if isinstance(row, dict) else {}


def _csv(content, file):
    header = content.partition("\n")[0]
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, values) for values in reader if any(map(str.strip, values))]
    except csv.Error as error:
        raise RequestError(f"{file} line {reader.line_num}: not a row of CSV ({error}): correct it") from error
    if len(set(names)) < len(names):
        raise RequestError(f"{file} line 1: two columns have one name: rename or remove one of {', '.join(names)}")
    if "expression" not in names:
        raise RequestError(f"{file} line 1: expected names of columns with expression and, if needed, image")
    for number, values in rows:
        if len(values) != len(names):
            remedy = "put text with separators in double quotes"
            if len(values) < len(names):
                remedy = "separate as many values as there are columns; a value may be empty"
            raise RequestError(f"{file} line {number}: {len(values)} values for {len(names)} columns: {remedy}")
        yield number, dict(zip(names, values))


def overlay(rgb, mask):
    """Returns `rgb` with the pixels of `mask` tinted and its inner outline drawn."""
    drawn = rgb.copy()
    drawn[mask] = (rgb[mask] * 0.5 + np.array(COLOUR) * 0.5).round().astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[mask & (inner == 0)] = COLOUR
    return drawn


def box(mask):
    """Returns the smallest box around a mask, [x, y, width, height] in pixels, or None."""
    rows, columns = mask.any(1).nonzero()[0].tolist(), mask.any(0).nonzero()[0].tolist()
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1] if rows else None


def run_lengths(mask):
    """Returns a mask (H, W) as compressed run lengths of COCO, as pycocotools encodes them."""
    pixels = mask.T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff([*([0] if pixels[0] else []), 0, *changes, pixels.size]).tolist()
    code = ""
    for number, count in enumerate(counts):
        rest = count - counts[number - 2] if number > 2 else count
        more = True
        while more:  # five bits a character, the lowest first; 16 is the sign of the last, 32 says that more follow
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            code += chr(48 + bits + 32 * more)
    return {"size": list(mask.shape), "counts": code}


def coco_file(records):
    """Returns records as one COCO file, as coupalign.inference.results does."""
    images, annotations = {}, []
    for number, record in enumerate(records, 1):
        height, width = record["segmentation"]["size"]
        image = {"id": len(images) + 1, "file_name": record["image"], "height": height, "width": width}
        annotation = {
            "id": number,
            "image_id": images.setdefault(record["image"], image)["id"],
            "category_id": 1,
            "expression": record["expression"],
            "segmentation": record["segmentation"],
            "area": round(record["area"] * height * width),
            "bbox": record["box"] or [0, 0, 0, 0],
            "score": record["score"],
            "iscrowd": 0,
        }
        annotations.append(annotation)
    content = {"images": list(images.values()), "annotations": annotations}
    return {**content, "categories": [{"id": 1, "name": "referent"}]}


def file_stem(image, expression):
    """Returns the start of a prediction's file names; it differs for each image path and expression, as in predict.py."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(str(image))) + b"\0" + os.fsencode(expression)).hexdigest()
    slugs = []
    for text in (Path(image).stem, expression):
        words = "-".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower()))
        slugs.append(words.encode("utf-8", "ignore")[:60].decode("utf-8", "ignore").strip("-") or "x")
    return "-".join([*slugs, digest[:10]])


def write_file(path, content):
    """Writes a file completely or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if temporary.exists():
            temporary.unlink()
