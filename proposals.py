"""Measure whether a model's alignments align."""

from coupalign.commands.proposals import main

if __name__ == "__main__":
    raise SystemExit(main())
