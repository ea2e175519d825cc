"""Evaluate a checkpoint on the splits of eval_splits."""

from coupalign.commands.eval import main

if __name__ == "__main__":
    raise SystemExit(main())
