"""Convert annotations of COCO, LabelMe, CVAT or label masks into JSON Lines for prepare_data.py.

Expressions come from a table (CSV with a header), or else from the objects' own texts (a caption in COCO, the
description in LabelMe, the attribute "expression" in CVAT), or else from labels. What is not converted is counted and
listed in left_out.jsonl.

    python convert_annotations.py --from labelme --annotations photos --val_images 4 --output data/mine_lines
    python convert_annotations.py --from coco --annotations instances.json --images DIR --expressions table.csv --output DIR
    python convert_annotations.py --from masks --annotations masks --images photos --expressions table.csv --output DIR

The columns of the table: annotation,expression for COCO; file,label,expression for LabelMe and CVAT;
file,index,expression or file,colour,expression for masks. Further columns: split, category.
"""

from __future__ import annotations

from pathlib import Path

from coupalign.checks import check_exists
from coupalign.cli import Argv, command, option, parse_own_arguments
from coupalign.files import check_directory

OPTIONS = [
    option("--from coco|labelme|cvat|masks", "format of the annotations", required=True, dest="kind"),
    option("--annotations PATH", "file, or directory of LabelMe's files or of masks", required=True),
    option("--images DIR", "directory of the images (default: the directory of the annotations)"),
    option("--expressions FILE", "CSV of expressions, in UTF-8; required for masks"),
    option("--val_images INT", "images to put into split val; the others are split train", default=0),
    option("--on_error stop|skip", "at an unusable shape, mask, image or file stop, or list it", default="stop"),
    option("--output DIR", "directory to write annotations.jsonl and left_out.jsonl to", required=True),
]


@command
def main(argv: Argv = None) -> int:
    args = parse_own_arguments(__doc__, argv, OPTIONS)
    annotations = check_exists(args.annotations, "--annotations")
    images = annotations if annotations.is_dir() else annotations.parent
    images = check_exists(args.images, "--images") if args.images else images
    table = check_exists(args.expressions, "--expressions") if args.expressions else None
    output = check_directory(args.output)
    from coupalign.annotations.convert import LINES_FILE, AnnotationSource, convert_annotations

    source = AnnotationSource(args.kind, annotations, Path(images), table)
    print(convert_annotations(source, output, args.val_images, args.on_error == "skip").summary())
    print(f"next: python prepare_data.py --dataset mine --annotations {output / LINES_FILE} --output data/mine")
    return 0
