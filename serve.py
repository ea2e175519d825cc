"""Serve a model over HTTP."""

from coupalign.commands.serve import main

if __name__ == "__main__":
    raise SystemExit(main())
