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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, get_origin

from coupalign.config import Config, Key, config_keys, load_config, load_inference_config
from coupalign.errors import UserError
from coupalign.files import find_file

# Keys that several programs read; see the argument `keys` of parse_arguments.
DEVICE_KEYS = ("device_target", "precision", "cpu_kernels", "seed")
DATA_KEYS = ("dataset", "data_dir", "vocab_file", "num_workers", "prefetch")
PROTOCOL_KEYS = ("sentences", "eval_limit", "eval_resolution", "threshold")
MODEL_KEYS = (*DEVICE_KEYS, "vocab_file", "threshold", "model")

_METAVARS = ((bool, "BOOL"), (int, "INT"), (float, "NUMBER"), (tuple, "LIST"), (str, "TEXT"))


def parse_arguments(
    description: str | None,
    argv: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
    subcommand: str = "",
    base: Callable[[argparse.Namespace], Mapping[str, Any]] | None = None,
    keys: Sequence[str] | None = None,
    config_file: bool = True,
) -> tuple[Config, argparse.Namespace]:
    """Reads ``--config FILE``, ``--key value`` for keys of the configuration, and a program's own arguments.

    Where `add` gives the program a ``--checkpoint`` and no ``--config`` is given, config.yaml beside the checkpoint is
    the configuration, if it exists. Such a program computes in float32 on a CPU (``load_inference_config``).

    Args:
        description: Shown by ``--help``.
        argv: Arguments; None is those of the process.
        add: Adds the program's own arguments to the parser.
        subcommand: Name of a subcommand, for ``--help``.
        base: Gives the settings, from the program's own arguments, that apply where no ``--config`` is given.
        keys: What the program reads: keys, each explained by ``--help``, and sections such as "model", whose keys
            ``--help`` only names. None is all keys. A configuration file may hold any key.
        config_file: Whether there is ``--config``; without it, `base` gives the settings.

    Returns: The checked configuration, and the program's own arguments (with ``config``).

    Raises: UserError (ConfigError for the configuration's part).
    """
    files = "[--config FILE] " if config_file else ""
    usage = f"%(prog)s {subcommand}".strip() + f" {files}[--key value …] [arguments]"
    parser = _parser(description, usage, add)
    takes_checkpoint = parser.takes("--checkpoint") and not base
    beside = "config.yaml beside the checkpoint if it exists, else " if takes_checkpoint else ""
    default = "the evaluation's own settings" if base else f"{beside}default_config.yaml"
    if config_file:
        parser.add_argument("--config", metavar="FILE", help=f"YAML file of keys (default: {default})")
    _add_keys(parser, keys)
    args = parser.parse(argv)
    path = args.config if config_file else None
    if path is None and takes_checkpoint and args.checkpoint:
        candidate = find_file(args.checkpoint).parent / "config.yaml"
        path = candidate if candidate.is_file() else None
    given = {name: vars(args).pop(name) for name in config_keys() if name in args}
    if path is None and base:
        given = {**base(args), **given}
    load = load_inference_config if takes_checkpoint else load_config
    return load(path, given), args


def parse_own_arguments(
    description: str | None, argv: Sequence[str] | None, add: Callable[[argparse.ArgumentParser], None], subcommand: str
) -> argparse.Namespace:
    """Like `parse_arguments`, for a subcommand without a configuration."""
    return _parser(description, f"%(prog)s {subcommand} [arguments]", add).parse(argv)


def unused_keys(path: str | None, keys: Sequence[str]) -> list[str]:
    """Keys that file `path` sets to other values than the defaults and a program with `keys` does not read."""
    values, defaults = load_config(path).as_dict(), load_config().as_dict()
    return [
        key.name
        for key in config_keys().values()
        if key.name not in keys and key.section not in keys and values[key.name] != defaults[key.name]
    ]


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Makes a program's `main` log to the terminal, and end without a traceback when the user made a mistake.

    A UserError becomes one line ``error: …`` on stderr and exit code 2, an interruption 130, a closed pipe
    (``| head``) 141. Loggers below "coupalign" write information to stdout and warnings, as ``warning: …``, to stderr.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        # MindSpore and OpenCV read these when first imported, which programs do inside main. Their own messages
        # would bury an error line.
        os.environ.setdefault("GLOG_v", "3")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
        try:
            with _terminal_logging():
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

    return guarded


class _TerminalHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if record.levelno < logging.WARNING:
            print(message, flush=True)
        else:
            print(f"{record.levelname.lower()}: {message}", file=sys.stderr, flush=True)


@contextmanager
def _terminal_logging() -> Iterator[None]:
    """Shows what loggers below "coupalign" say, inside the block; a program called by another changes nothing."""
    logger = logging.getLogger("coupalign")
    if any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
        yield
        return
    before, handler = (logger.level, logger.propagate), _TerminalHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _add_keys(parser: _Parser, names: Sequence[str] | None) -> None:
    """Adds an option for each key in `names` and each key of a section in `names`."""
    groups: dict[str, Any] = {}
    named = []
    for key in config_keys().values():
        explained = names is None or key.name in names
        if explained:
            group = groups.get(key.title) or parser.add_argument_group(f"configuration: {key.title}")
            groups[key.title], help_text = group, f"{key.help} (default: {_written(key.default)})".replace("%", "%%")
        elif names and key.section in names:
            group, help_text = parser, argparse.SUPPRESS
            named.append(f"--{key.name}")
        else:
            continue
        group.add_argument(f"--{key.name}", metavar=_metavar(key), default=argparse.SUPPRESS, help=help_text)
    if named:
        text = f"also, explained in default_config.yaml: {', '.join(named)}"
        parser.epilog = "\n".join(textwrap.wrap(text, shutil.get_terminal_size().columns - 2))


def _parser(description: str | None, usage: str, add: Callable[[argparse.ArgumentParser], None] | None) -> _Parser:
    parser = _Parser(
        description=inspect.cleandoc(description or ""),
        usage=usage,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    if add:
        add(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse that raises UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all arguments)")

    def takes(self, option: str) -> bool:
        return option in self._option_string_actions

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        if unknown:
            raise UserError(self._unknown_argument(unknown))
        return args

    def _unknown_argument(self, unknown: Sequence[str]) -> str:
        first = next((item for item in unknown if item.startswith("-")), unknown[0])
        name = first.split("=")[0]
        if not first.startswith("--"):
            return f"unexpected argument {first!r}: options are written --key value"
        if name[2:] in config_keys():
            return f"{name} is not used by {self.prog}: remove it (--help lists what is used)"
        nearest = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0)[0]
        return f"unknown option {name}: did you mean {nearest}?"


def _metavar(key: Key) -> str:
    kind = get_origin(key.type) or key.type
    return next((text for base, text in _METAVARS if isinstance(kind, type) and issubclass(kind, base)), "NAME")


def _written(default: Any) -> str:
    """A default value as a user would type it."""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "empty"
    return str(default).lower() if isinstance(default, bool) else str(default) or "empty"
