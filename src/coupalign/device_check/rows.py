"""What a row of the table says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Outcome:
    """Result of one check.

    Attributes:
        difference: The largest difference found; None if the row compares no numbers.
        tolerance: The largest difference that passes.
        note: What the difference is of, or what was found.
        status: PASS, FAIL, WARN (passes with a remark) or SKIP (not applicable here); by default from the difference.
    """

    difference: float | None = None
    tolerance: float | None = None
    note: str = ""
    status: str = ""

    def __post_init__(self) -> None:
        if not self.status:
            assert self.difference is not None and self.tolerance is not None
            self.status = "PASS" if self.difference <= self.tolerance else "FAIL"  # NaN fails


# In the order of the table.
ROWS = """
versions collective gate wpa cross_attention mask_generator sma seg_head batch_norm patch_embed swin_stage patch_merging
bert_layer segmentation_loss contrastive_loss dropout adamw skipped_step overflow curve_fp32 curve_fp16 curve_bf16 resume
paper_size
""".split()
# Rows whose process leaves the device to the processes that it starts.
HOST_ROWS = ("versions", "collective", "paper_size")
