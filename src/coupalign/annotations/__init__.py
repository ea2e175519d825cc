"""Annotations of other programs (COCO, LabelMe, CVAT, label masks) as JSON Lines of this project."""
