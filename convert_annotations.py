"""Convert annotations of COCO, LabelMe, CVAT or label masks into JSON Lines for prepare_data.py."""

from coupalign.commands.convert_annotations import main

if __name__ == "__main__":
    raise SystemExit(main())
