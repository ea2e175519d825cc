"""The model, one Cell for each module of the paper.

Eq 1-2, 4-5 wpa.py; Eq 3 swin.py and bert.py; Eq 6 gate.py; Eq 7-8 cross_attention.py; Eq 9 mask_generator.py;
Eq 10 seg_head.py; Eq 11-12 sma.py. coup_align.py couples them. Eq 13 to 16 are in coupalign.loss, Eq 17 in
coupalign.training.step.
"""

from coupalign.model.build import build_model
from coupalign.model.coup_align import CoupAlign, Outputs

__all__ = ["CoupAlign", "Outputs", "build_model"]
