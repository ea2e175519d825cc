"""The command line that all programs at the root share."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coupalign.config import DEFAULT_FILE, Config, Key, config_keys, load_config
from coupalign.errors import UserError
from coupalign.files import find_file


def parse_arguments(
    description: str | None,
    argv: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
    subcommand: str = "",
    base: Callable[[argparse.Namespace], Mapping[str, Any]] | None = None,
) -> tuple[Config, argparse.Namespace]:
    """Reads ``--config FILE``, ``--key value`` for every key of the configuration, and a program's own arguments.

    Where `add` gives the program a ``--checkpoint`` and no ``--config`` is given, the config.yaml that training
    left beside the checkpoint is used, if there is one.

    Args:
        description: shown by ``--help``.
        argv: arguments; None is those of the process.
        add: adds the program's own arguments to the parser.
        subcommand: which of the program's it is, for ``--help``.
        base: gives, by the program's own arguments, the settings of an evaluation, to start from where no ``--config``
            is given.

    Returns: the checked configuration, and the program's own arguments (with ``config``).

    Raises: UserError (ConfigError for the configuration's part).
    """
    parser = _parser(
        description, f"%(prog)s {subcommand}".strip() + " [--config FILE] [--key value …] [arguments]", add
    )
    takes_checkpoint = parser.takes("--checkpoint") and not base
    beside = "config.yaml beside the checkpoint if there, else " if takes_checkpoint else ""
    default = "the evaluation's own settings" if base else f"{beside}{DEFAULT_FILE}"
    parser.add_argument(
        "--config", metavar="FILE", help=f"YAML file with what differs from {DEFAULT_FILE} (default: {default})"
    )
    keys = config_keys()
    groups = {}
    for key in keys.values():
        if key.section not in groups:
            groups[key.section] = parser.add_argument_group(f"configuration: {key.section}")
        groups[key.section].add_argument(
            f"--{key.name}",
            metavar=_metavar(key),
            default=argparse.SUPPRESS,
            help=f"{key.help} (default: {_written(key)})".replace("%", "%%"),
        )
    args = parser.parse(argv)
    path = args.config
    if path is None and takes_checkpoint and args.checkpoint:
        candidate = find_file(args.checkpoint).parent / "config.yaml"
        path = candidate if candidate.is_file() else None
    given = {name: vars(args).pop(name) for name in keys if name in args}
    if path is None and base:
        given = {**base(args), **given}
    return load_config(DEFAULT_FILE if path is None else path, given), args


def parse_own_arguments(
    description: str | None, argv: Sequence[str] | None, add: Callable[[argparse.ArgumentParser], None], subcommand: str
) -> argparse.Namespace:
    """As `parse_arguments`, of a subcommand that needs no configuration."""
    return _parser(description, f"%(prog)s {subcommand} [arguments]", add).parse(argv)


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Turns a program's `main` into one that never shows a user a traceback for a user's mistake.

    A UserError becomes one line ``error: …`` on stderr and the exit status 2, an interruption 130, a reader that
    went away (``| head``) 141.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        # MindSpore and OpenCV read these when first imported, which programs do inside main; what they log on the way
        # to an error would bury our line about it.
        os.environ.setdefault("GLOG_v", "3")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
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
            # Python flushes stdout once more on exit, which would fail again, loudly.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return guarded


def _parser(description: str | None, usage: str, add: Callable[[argparse.ArgumentParser], None] | None) -> _Parser:
    parser = _Parser(
        description=description,
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
    """argparse whose errors are UserErrors."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help lists all arguments)")

    def takes(self, option: str) -> bool:
        return option in self._option_string_actions

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        if unknown:
            raise UserError(self._unknown_argument(unknown))
        return args

    def _unknown_argument(self, unknown: Sequence[str]) -> str:
        """The message for arguments that no action took."""
        first = next((item for item in unknown if item.startswith("-")), unknown[0])
        name = first.split("=")[0]
        if not first.startswith("--"):
            return f"unexpected argument {first!r}: options are written --key value"
        nearest = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0)[0]
        return f"unknown option {name}: did you mean {nearest}?"


def _metavar(key: Key) -> str:
    if isinstance(key.default, tuple):
        return "LIST"
    return {bool: "BOOL", int: "INT", float: "NUMBER", str: "TEXT"}[type(key.default)]


def _written(key: Key) -> str:
    """The default as one would type it."""
    if isinstance(key.default, tuple):
        return ",".join(map(str, key.default)) or "empty"
    if isinstance(key.default, bool):
        return str(key.default).lower()
    return "empty" if key.default == "" else str(key.default)
