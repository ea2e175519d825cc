"""The sections of the configuration: names, types and ranges of all keys.

Values and help texts are in default_config.yaml. A key that may differ when a training is resumed carries the mark
``MAY_CHANGE``: it does not decide what is learnt. Keys that decide the figures of validation do not carry it, because
best.ckpt is the best by the same figure throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Union

from jsonargparse.typing import restricted_number_type as number
from jsonargparse.typing import restricted_string_type as string

from coupalign.errors import ConfigError

if TYPE_CHECKING:
    Count = int
    Natural = int
    Stage = int
    Positive = float
    NotNegative = float
    Fraction = float
    Text = str
    Name = str
else:  # the docstring of each type is what an error message expects
    _INT32, _FINITE = ("<", 2**31), ("<", math.inf)
    Count = number("Count", int, [(">=", 1), _INT32], docstring="an integer from 1")
    Natural = number("Natural", int, [(">=", 0), _INT32], docstring="an integer from 0")
    Stage = number("Stage", int, [(">=", 1), ("<=", 4)], docstring="an integer from 1 to 4")
    Positive = number("Positive", float, [(">", 0), _FINITE], docstring="a number above 0")
    NotNegative = number("NotNegative", float, [(">=", 0), _FINITE], docstring="a number from 0")
    Fraction = number("Fraction", float, [(">=", 0), ("<", 1)], docstring="a number from 0 to below 1")
    _PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
    Text = string("Text", rf"{_PRINTABLE}*\Z", docstring="a string in one line")
    Name = string("Name", rf"{_PRINTABLE}+\Z", docstring="a string that is not empty, in one line")

NameOrNames = Union[Name, tuple[Name, ...]]
MAY_CHANGE = {"may_change": True}


class _Section:
    """A section that is checked when it is made. Raises: ConfigError, which names all problems at once."""

    def __post_init__(self) -> None:
        problems = [message for good, message in self.checks() if not good]
        if problems:
            raise ConfigError("; ".join(problems))

    def checks(self) -> Iterator[tuple[object, str]]:
        """Yields conditions on the values, each with the message if it does not hold."""
        yield from ()


@dataclass(frozen=True)
class RunConfig(_Section):
    """Device, precision and output of a program."""

    seed: Natural
    precision: Literal["fp32", "fp16", "bf16"]
    device_target: Literal["CPU", "GPU", "Ascend"] = field(metadata=MAY_CHANGE)
    jit_level: Literal["O0", "O1"] = field(metadata=MAY_CHANGE)
    cpu_kernels: bool = field(metadata=MAY_CHANGE)
    output_dir: Name = field(metadata=MAY_CHANGE)

    def checks(self) -> Iterator[tuple[object, str]]:
        good = self.precision != "bf16" or self.device_target == "Ascend"
        device = self.device_target
        reason = f"MindSpore has no bf16 kernels for {device}"
        yield good, f"precision bf16 is not available on device_target {device}, {reason}: choose fp32 or fp16"


@dataclass(frozen=True)
class DataConfig(_Section):
    """The prepared data set, or several, and how they are read."""

    dataset: NameOrNames
    data_dir: NameOrNames = field(metadata=MAY_CHANGE)
    data_weights: tuple[Positive, ...]
    vocab_file: Name = field(metadata=MAY_CHANGE)
    num_workers: Count = field(metadata=MAY_CHANGE)
    prefetch: Count = field(metadata=MAY_CHANGE)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all data sets."""
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories of all data sets."""
        return (self.data_dir,) if isinstance(self.data_dir, str) else self.data_dir

    @property
    def name(self) -> str:
        """The name of the only data set. Raises: ConfigError if there are several."""
        self._require_one()
        return self.names[0]

    @property
    def directory(self) -> str:
        """The directory of the only data set. Raises: ConfigError if there are several."""
        self._require_one()
        return self.directories[0]

    def _require_one(self) -> None:
        if len(self.names) > 1:
            raise ConfigError(f"several data sets ({', '.join(self.names)}): choose one with --dataset and --data_dir")

    def checks(self) -> Iterator[tuple[object, str]]:
        names, count, weights = self.names, len(self.directories), len(self.data_weights)
        remedy = "give one name per directory, in the same order"
        yield len(names) == count, f"dataset names {len(names)} data sets and data_dir {count}: {remedy}"
        yield len(set(names)) == len(names), f"dataset is {list(names)}: name each data set once"
        # With one data set weights have no effect, so that a program can take one of a run's data sets.
        yield (
            weights in (0, count) or count == 1,
            f"data_weights are {weights} for {count} data sets: give one weight per directory, or none",
        )


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """Schedule, optimiser and records of a training."""

    train_split: Name
    val_split: Name
    train_sentences: Literal["all", "random"]
    train_families: tuple[Name, ...]
    batch_size: Count
    learning_rate: Positive
    end_learning_rate: NotNegative
    decay_epochs: Count
    decay_power: Positive
    warmup_steps: Natural
    weight_decay: NotNegative
    frozen: tuple[Text, ...]
    learning_rate_scales: tuple[Text, ...]
    weight_decays: tuple[Text, ...]
    ema_decay: Fraction
    max_grad_norm: NotNegative
    init_checkpoint: Text
    init_except: tuple[Text, ...]
    epochs: Count = field(metadata=MAY_CHANGE)
    accumulation_steps: Count = field(metadata=MAY_CHANGE)
    recompute: bool = field(metadata=MAY_CHANGE)
    max_skipped_steps: Count = field(metadata=MAY_CHANGE)
    resume: Name = field(metadata=MAY_CHANGE)
    checkpoint_every: Natural = field(metadata=MAY_CHANGE)
    keep_checkpoints: Natural = field(metadata=MAY_CHANGE)
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = field(metadata=MAY_CHANGE)
    profile: Natural = field(metadata=MAY_CHANGE)

    def checks(self) -> Iterator[tuple[object, str]]:
        yield self.train_families, "train_families is empty: name families, or all"
        decay, epochs = self.decay_epochs, self.epochs
        warmup = f", and warmup_steps {self.warmup_steps} below their steps" if self.warmup_steps else ""
        remedy = f"set decay_epochs to {epochs} or less{warmup}"
        yield decay <= epochs, f"decay_epochs {decay} is above epochs {epochs}: {remedy}"
        end, start = self.end_learning_rate, self.learning_rate
        yield end < start, f"end_learning_rate {end} is not below learning_rate {start}: lower end_learning_rate"
        yield (
            self.resume != self.init_checkpoint,
            f"resume and init_checkpoint are both {self.resume!r}: set resume to continue a training, init_checkpoint "
            "to start another from its weights",
        )
        remedy = "name the checkpoint that the other parameters come from, or leave init_except empty"
        yield self.init_checkpoint or not self.init_except, f"init_except needs init_checkpoint: {remedy}"
        number = r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,2})?"
        for name in ("learning_rate_scales", "weight_decays"):
            for entry in getattr(self, name):
                form = "expected <pattern of names>=<number from 0>, such as image_encoder.*=0.1"
                yield re.fullmatch(f".+={number}", entry), f"{name} has {entry!r}: {form}"
        for entry in self.learning_rate_scales:
            remedy = "give a number above 0, or list the pattern in frozen"
            zero = re.fullmatch(f".+={number}", entry) and not float(entry.rpartition("=")[2])
            yield not zero, f"learning_rate_scales has {entry!r}: {remedy}"


@dataclass(frozen=True)
class EvaluationConfig(_Section):
    """Which samples are evaluated, and how masks are compared."""

    eval_resolution: Literal["original", "input"]
    eval_limit: Natural
    sentences: Literal["all", "first", "random"]
    threshold: Fraction
    existence_threshold: Fraction
    eval_every: Count = field(metadata=MAY_CHANGE)
    eval_batch_size: Count = field(metadata=MAY_CHANGE)
    eval_splits: tuple[Name, ...] = field(metadata=MAY_CHANGE)

    def checks(self) -> Iterator[tuple[object, str]]:
        splits = list(self.eval_splits)
        yield (
            splits and len(set(splits)) == len(splits),
            f"eval_splits is {splits}: name at least one split, and each once",
        )


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The network."""

    image_size: Count
    max_tokens: Count
    swin_embed_dim: Count
    swin_depths: tuple[Count, Count, Count, Count]
    swin_num_heads: tuple[Count, Count, Count, Count]
    swin_window_size: Count
    swin_bias_start: Literal["random", "neighbours"]
    swin_drop_path_rate: Fraction
    bert_vocab_size: Count
    bert_num_layers: Count
    bert_hidden_size: Count
    bert_num_heads: Count
    bert_max_positions: Count
    bert_dropout: Fraction
    wpa_direction: Literal["bi", "uni", "none"]
    wpa_stages: tuple[Stage, ...]
    wpa_dim: Count
    wpa_norm: bool
    cross_attention_heads: Count
    cross_attention_norm: bool
    num_queries: Count
    query_anchors: bool
    decoder_dim: Count
    decoder_heads: Count
    decoder_ffn_dim: Count
    decoder_layers: Count
    seg_head_dim: Count
    batch_norm: Literal["synchronised", "local", "frozen"]
    sma: bool
    sma_temperature: Positive
    existence: bool
    linear_init_std: NotNegative

    def checks(self) -> Iterator[tuple[object, str]]:
        tokens, positions, layers = self.max_tokens, self.bert_max_positions, self.bert_num_layers
        yield self.image_size % 32 == 0, f"image_size is {self.image_size}: give a multiple of 32"
        yield tokens >= 3, f"max_tokens is {tokens}: give at least 3, for [CLS], a word and [SEP]"
        yield tokens <= positions, f"max_tokens {tokens} is above bert_max_positions {positions}: lower max_tokens"
        yield layers % 4 == 0, f"bert_num_layers is {layers}: give a multiple of 4, a quarter per stage"
        for stage, heads in enumerate(self.swin_num_heads):
            width = self.swin_embed_dim * 2**stage
            where = f"width {width} of stage {stage + 1} (swin_embed_dim {self.swin_embed_dim})"
            yield width % heads == 0, f"swin_num_heads: {heads} heads do not divide the {where}: change one of them"
        for width_key, heads_key in (
            ("bert_hidden_size", "bert_num_heads"),
            ("bert_hidden_size", "cross_attention_heads"),
            ("decoder_dim", "decoder_heads"),
        ):
            width, heads = getattr(self, width_key), getattr(self, heads_key)
            yield width % heads == 0, f"{heads_key} {heads} does not divide {width_key} {width}: change one of them"
        few = f"query_anchors needs 4 channels per head: lower decoder_heads {self.decoder_heads}"
        yield not self.query_anchors or self.decoder_dim // self.decoder_heads >= 4, few
        stages = list(self.wpa_stages)
        yield len(set(stages)) == len(stages), f"wpa_stages is {stages}: give each stage once"
        remedy = "give stages from 1 to 4, or set wpa_direction to none"
        yield stages or self.wpa_direction == "none", f"wpa_stages is empty: {remedy}"


@dataclass(frozen=True)
class LossConfig(_Section):
    """The auxiliary pixel contrastive loss, set prediction, and the existence output."""

    aux_loss_weight: NotNegative
    aux_temperature: Positive
    aux_normalize: bool
    aux_log: bool
    object_loss_weight: NotNegative
    choice_loss_weight: NotNegative
    max_objects: Count
    existence_loss_weight: Positive

    def checks(self) -> Iterator[tuple[object, str]]:
        most, choice = self.max_objects, self.choice_loss_weight
        yield most <= 32, f"max_objects is {most}: give at most 32, the number that prepare_data.py stores"
        remedy = "object_loss_weight, which is 0: raise it"
        yield self.object_loss_weight or not choice, f"choice_loss_weight {choice} needs the matches of {remedy}"
