"""The console command: ``coupalign <command> [arguments]``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

from coupalign import commands
from coupalign.errors import UserError

try:
    from coupalign.cli import command
except ModuleNotFoundError as error:  # installed without dependencies
    raise SystemExit(f"error: package {error.name} is missing: pip install -r requirements.txt") from None


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    if name in ("-h", "--help"):
        print("usage: coupalign <command> [arguments]\n\ncommands (each has --help):")
        for each in names:
            doc = importlib.import_module(f"coupalign.commands.{each}").__doc__ or ""
            print(f"  {each:16} {doc.splitlines()[0]}")
        return 0
    module = name.replace("-", "_")
    if module not in names:
        raise UserError(f"unknown command {name!r}: choose {', '.join(names)}")
    sys.argv[0] = f"coupalign {name}"  # for usage lines
    return importlib.import_module(f"coupalign.commands.{module}").main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
