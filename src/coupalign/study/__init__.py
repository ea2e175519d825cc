"""Ablation studies: rows of a table, trained with several seeds, beside the paper's figures."""
