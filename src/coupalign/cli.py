"""The command line that all programs share."""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Optional

from coupalign.config import Config, Key, config_keys, load_config, load_inference_config
from coupalign.errors import UserError
from coupalign.files import find_file

# Keys that several programs read; see the argument `keys` of parse_arguments.
DEVICE_KEYS = ("device_target", "precision", "jit_level", "cpu_kernels", "seed")
DATA_KEYS = ("dataset", "data_dir", "vocab_file", "num_workers", "prefetch")
PROTOCOL_KEYS = ("sentences", "eval_limit", "eval_resolution", "threshold", "existence_threshold")
MODEL_KEYS = (*DEVICE_KEYS, "vocab_file", "threshold", "existence_threshold", "model")

Argv = Optional[Sequence[str]]  # arguments of a program; None is those of the process
Option = tuple[str, dict[str, Any]]


def option(usage: str, help_text: str, **settings: Any) -> Option:
    """A program's own argument for `parse_arguments`.

    Args:
        usage: Name and kind of value: "--name INT", "--name FILE" (or any other word), "--name one|other" for a choice,
            "--name" for a switch, "name FILE" for a positional argument.
        help_text: Shown by ``--help``, which adds the default.
        settings: Further arguments of ``argparse.ArgumentParser.add_argument``.
    """
    name, _, value = usage.partition(" ")
    default = settings.get("default")
    settings["help"] = help_text if default in (None, "") else f"{help_text} (default: {default})"
    if value:
        settings["metavar"] = value
        settings |= {"type": int} if value == "INT" else {"choices": value.split("|")} if "|" in value else {}
    elif name.startswith("-"):
        settings["action"] = "store_true"
    return name, settings


CHECKPOINT = option("--checkpoint FILE", "trained model, .ckpt or .safetensors", required=True)


def parse_arguments(
    description: str | None,
    argv: Argv,
    options: Sequence[Option] = (),
    base: Callable[[argparse.Namespace], Mapping[str, Any]] | None = None,
    keys: Sequence[str] | None = None,
) -> tuple[Config, argparse.Namespace]:
    """Reads ``--config FILE``, ``--key value`` for keys of the configuration, and a program's own arguments.

    Where `options` have a ``--checkpoint`` and no ``--config`` is given, config.yaml beside the checkpoint is the
    configuration, if it exists. Such a program computes in float32 on a CPU (``load_inference_config``).

    Args:
        description: Shown by ``--help``.
        argv: Arguments.
        options: The program's own arguments.
        base: Gives the settings from the program's own arguments; there is no ``--config`` then.
        keys: What the program reads: keys, each explained by ``--help``, and sections such as "model", whose keys
            ``--help`` only names. None is all keys. A configuration file may hold any key.

    Returns: The checked configuration, and the program's own arguments.

    Raises: UserError (ConfigError for the configuration's part).
    """
    parser = _Parser(description, options)
    takes_checkpoint = not base and any(name == "--checkpoint" for name, _ in options)
    if not base:
        beside = "config.yaml beside the checkpoint if it exists, else " if takes_checkpoint else ""
        several = "may be given several times, later files over earlier ones"
        text = f"YAML file; {several} (default: {beside}default_config.yaml)"
        parser.add_argument("--config", metavar="FILE", action="append", help=text)
    parser.usage = f"{parser.format_usage().split(maxsplit=1)[1].rstrip()} [--key value …]"
    _add_keys(parser, keys)
    args = parser.parse(argv)
    given = {name: vars(args).pop(name) for name in config_keys() if name in args}
    if base:
        return load_config(None, {**base(args), **given}), args
    paths = args.config
    if paths is None and takes_checkpoint and args.checkpoint:
        beside_checkpoint = find_file(args.checkpoint).parent / "config.yaml"
        paths = [beside_checkpoint] if beside_checkpoint.is_file() else None
    return (load_inference_config if takes_checkpoint else load_config)(paths, given), args


def parse_own_arguments(description: str | None, argv: Argv, options: Sequence[Option]) -> argparse.Namespace:
    """Like `parse_arguments`, for a program without a configuration."""
    return _Parser(description, options).parse(argv)


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Makes a program's `main` log to the terminal, and end without a traceback when the user made a mistake.

    A UserError becomes one line ``error: …`` on stderr and exit code 2, an interruption 130, a closed pipe
    (``| head``) 141. Loggers below "coupalign" write information to stdout and warnings, as ``warning: …``, to stderr.
    """

    @functools.wraps(main)
    def guarded(argv: Argv = None) -> int:
        # MindSpore, OpenCV and ONNX Runtime read these when first imported, which programs do inside main. The messages
        # of the first two would bury an error line.
        os.environ.setdefault("GLOG_v", "3")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime would use the network
        logger = logging.getLogger("coupalign")
        level, propagate, handlers = logger.level, logger.propagate, logger.handlers
        logger.setLevel(logging.INFO)
        logger.propagate, logger.handlers = False, [_TerminalHandler()]
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except UserError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # Python flushes stdout again on exit, which would fail with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        finally:
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers

    return guarded


class _TerminalHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            print(self.format(record), flush=True)
        else:
            print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr, flush=True)


def _add_keys(parser: argparse.ArgumentParser, names: Sequence[str] | None) -> None:
    """Adds an option for each key in `names` and each key of a section in `names`."""
    groups: dict[str, Any] = {}
    named = []
    for key in config_keys().values():
        settings: dict[str, Any] = {"metavar": "VALUE", "default": argparse.SUPPRESS}
        if names is None or key.name in names:
            if key.title not in groups:
                groups[key.title] = parser.add_argument_group(f"configuration: {key.title}")
            help_text = f"{key.help} (default: {_written(key)})".replace("%", "%%")
            groups[key.title].add_argument(f"--{key.name}", help=help_text, **settings)
        elif key.section in names:
            parser.add_argument(f"--{key.name}", help=argparse.SUPPRESS, **settings)
            named.append(f"--{key.name}")
    if named:
        text = f"also, explained in default_config.yaml: {', '.join(named)}"
        parser.epilog = "\n".join(textwrap.wrap(text, shutil.get_terminal_size().columns - 2))


def _written(key: Key) -> str:
    """The default value as a user would type it."""
    items = key.default if isinstance(key.default, tuple) else [key.default]
    return ",".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items) or "empty"


class _Parser(argparse.ArgumentParser):
    """argparse that raises UserError."""

    def __init__(self, description: str | None, options: Sequence[Option]):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(description=inspect.cleandoc(description or ""), allow_abbrev=False, formatter_class=raw)
        for name, settings in options:
            self.add_argument(name, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all arguments)")

    def parse(self, argv: Argv) -> argparse.Namespace:
        args, unknown = self.parse_known_args(sys.argv[1:] if argv is None else list(argv))
        if unknown:
            self._refuse(unknown)
        return args

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        first = next((item for item in unknown if item.startswith("-")), unknown[0])
        name = first.split("=")[0]
        if not first.startswith("--"):
            raise UserError(f"unexpected argument {first!r}: options are written --key value")
        if name[2:] in config_keys():
            raise UserError(f"{name} is not used by {self.prog}: remove it (--help lists what is used)")
        nearest = difflib.get_close_matches(name, self._option_string_actions.keys() - {"-h", "--help"}, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else "--help lists all options"
        raise UserError(f"unknown option {name}: {advice}")
