"""Which values of the configuration do not go together. Pure functions of the values; no file, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CHOICES = {
    "device_target": ("CPU", "GPU", "Ascend"),
    "precision": ("fp32", "fp16", "bf16"),
    "train_sentences": ("all", "random"),
    "sentences": ("all", "first", "random"),
    "eval_resolution": ("original", "input"),
    "swin_bias_start": ("random", "neighbours"),
    "wpa_direction": ("bi", "uni", "none"),
    "batch_norm": ("synchronised", "local", "frozen"),
}
AT_LEAST_ONE = (
    "num_workers",
    "image_size",
    "max_tokens",
    "batch_size",
    "epochs",
    "decay_epochs",
    "eval_every",
    "eval_batch_size",
    "max_skipped_steps",
    "accumulation_steps",
    "prefetch",
    "swin_embed_dim",
    "swin_window_size",
    "bert_vocab_size",
    "bert_num_layers",
    "bert_hidden_size",
    "bert_num_heads",
    "bert_max_positions",
    "wpa_dim",
    "cross_attention_heads",
    "num_queries",
    "decoder_dim",
    "decoder_heads",
    "decoder_ffn_dim",
    "decoder_layers",
    "seg_head_dim",
    "swin_depths",
    "swin_num_heads",
)
POSITIVE = ("learning_rate", "decay_power", "sma_temperature", "aux_temperature")
NOT_NEGATIVE = (
    "seed",
    "end_learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "eval_limit",
    "aux_loss_weight",
    "linear_init_std",
    "checkpoint_every",
    "keep_checkpoints",
    "profile",
)
BELOW_ONE = ("swin_drop_path_rate", "bert_dropout", "threshold", "ema_decay")
NOT_EMPTY = (
    "output_dir",
    "dataset",
    "data_dir",
    "vocab_file",
    "train_split",
    "val_split",
    "eval_splits",
    "train_families",
    "resume",
)


def combination_error(values: Mapping[str, Any]) -> str | None:
    """The first thing wrong with typed `values`, in one line that names the keys and the mend; None if all is well."""
    return _range_error(values) or _model_error(values) or _run_error(values)


def _range_error(values: Mapping[str, Any]) -> str | None:
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            return f"{name} is {values[name]!r}: choose {', '.join(choices[:-1])} or {choices[-1]}"
    for name in AT_LEAST_ONE:
        value = values[name]
        if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
            return f"{name} is {_written(value)}: give at least 1"
    for name in POSITIVE:
        if values[name] <= 0:
            return f"{name} is {values[name]}: give a number above 0"
    for name in NOT_NEGATIVE:
        if values[name] < 0:
            return f"{name} is {values[name]}: give 0 or more"
    for name in BELOW_ONE:
        if not 0 <= values[name] < 1:
            return f"{name} is {values[name]}: give a number from 0 to below 1"
    for name in NOT_EMPTY:
        value = values[name]
        if not value or (isinstance(value, tuple) and "" in value):
            return f"{name} is empty: give a name"
    return None


def _model_error(values: Mapping[str, Any]) -> str | None:
    for name in ("swin_depths", "swin_num_heads"):
        if len(values[name]) != 4:
            return f"{name} is {_written(values[name])}: give 4 numbers, one a stage"
    for stage, heads in enumerate(values["swin_num_heads"]):
        width = values["swin_embed_dim"] * 2**stage
        if width % heads:
            return (
                f"swin_num_heads: {heads} heads do not divide the width {width} of stage {stage + 1} "
                f"(swin_embed_dim {values['swin_embed_dim']}): change one of them"
            )
    for width, heads in (
        ("bert_hidden_size", "bert_num_heads"),
        ("bert_hidden_size", "cross_attention_heads"),
        ("decoder_dim", "decoder_heads"),
    ):
        if values[width] % values[heads]:
            return f"{heads} {values[heads]} does not divide {width} {values[width]}: change one of them"
    if values["image_size"] % 32:
        return f"image_size is {values['image_size']}: give a multiple of 32"
    if values["bert_num_layers"] % 4:
        return f"bert_num_layers is {values['bert_num_layers']}: give a multiple of 4, a quarter for each stage"
    stages = values["wpa_stages"]
    if len(set(stages)) != len(stages) or not set(stages) <= {1, 2, 3, 4}:
        return f"wpa_stages is {_written(stages)}: give stages from 1 to 4, each once"
    if not stages and values["wpa_direction"] != "none":
        return "wpa_stages is empty: give stages from 1 to 4, or set wpa_direction to none"
    if values["max_tokens"] < 3:
        return f"max_tokens is {values['max_tokens']}: give at least 3, for [CLS], a word and [SEP]"
    if values["max_tokens"] > values["bert_max_positions"]:
        return (
            f"max_tokens {values['max_tokens']} is above bert_max_positions {values['bert_max_positions']}: "
            "lower max_tokens"
        )
    return None


def _run_error(values: Mapping[str, Any]) -> str | None:
    if values["decay_epochs"] > values["epochs"]:
        return f"decay_epochs {values['decay_epochs']} is above epochs {values['epochs']}: lower decay_epochs"
    if values["end_learning_rate"] >= values["learning_rate"]:
        return (
            f"end_learning_rate {values['end_learning_rate']} is not below learning_rate "
            f"{values['learning_rate']}: lower end_learning_rate"
        )
    if values["resume"] == values["init_checkpoint"]:
        return (
            f"resume and init_checkpoint are both {values['resume']!r}: give resume to go on with a training, "
            "init_checkpoint to start another from its weights"
        )
    if (values["device_target"], values["precision"]) == ("CPU", "bf16"):
        return "precision is bf16, which MindSpore's CPU back end lacks: choose fp32 or fp16 on device_target CPU"
    for name in ("learning_rate_scales", "weight_decays"):
        for entry in values[name]:
            if not re.fullmatch(r".+=([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,2})?", entry):
                return f"{name} has {entry!r}: write <pattern of names>=<number from 0>, such as image_encoder.*=0.1"
            if name == "learning_rate_scales" and not float(entry.rpartition("=")[2]):
                return f"{name} has {entry!r}: give a number above 0, or name what is not to be trained in frozen"
    splits = values["eval_splits"]
    if len(set(splits)) != len(splits):
        return f"eval_splits is {_written(splits)}: name each split once"
    return None


def _written(value: Any) -> str:
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."
