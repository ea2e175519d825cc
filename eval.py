"""Evaluate a checkpoint on the splits of eval_splits. See coupalign.commands.eval."""

from coupalign.commands.eval import main

if __name__ == "__main__":
    raise SystemExit(main())
