"""Masks from the annotations of COCO and REFER."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from src.errors import UserError


def annotation_mask(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """The pixels of an annotation: (height, width) bool.

    A segmentation is a list of polygons [x1, y1, x2, y2, …], run lengths (compressed, or plain as COCO writes
    crowds), or a list of run lengths (ReferIt). Parts are united: a pixel where polygons overlap belongs to the mask.
    Polygons with fewer than three points have no inside and are left out.

    Raises: UserError that names the annotation, if nothing is left or it does not fit the image.
    """
    where = f"annotation {annotation.get('id')}"
    segmentation = annotation.get("segmentation")
    parts = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise UserError(f"{where} has no segmentation in instances.json: take the REFER tool's own file")
    encoded = [code for part in parts for code in _encode(part, height, width, where)]
    if not encoded:
        raise UserError(f"{where} has no polygon with three points or more: mend it in instances.json, or leave out "
                        "its referents")
    return rle.decode(rle.merge(encoded, intersect=False)).astype(bool)


def _encode(part: object, height: int, width: int, where: str) -> list[dict]:
    """Compressed run lengths of one polygon or run-length code; none for a polygon without inside."""
    try:
        if isinstance(part, Mapping):
            if list(part["size"]) != [height, width]:
                raise UserError(f"{where} is {part['size'][0]} x {part['size'][1]} pixels (height x width), its image "
                                f"{height} x {width}: the annotations belong to other images")
            if isinstance(part["counts"], (str, bytes)):
                return [dict(part)]
            return [rle.frPyObjects(dict(part), height, width)]
        if len(part) < 6:
            return []
        # An odd number out would shift every later coordinate.
        if len(part) % 2:
            raise ValueError
        return rle.frPyObjects([[float(number) for number in part]], height, width)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} has a segmentation that is neither polygons nor run lengths: take the REFER tool's "
                        "own instances.json") from error
