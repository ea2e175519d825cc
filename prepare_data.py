"""Turn a data set on disk into MindRecord files; or make RefShapes (synthetic) first."""

from coupalign.commands.prepare_data import main

if __name__ == "__main__":
    raise SystemExit(main())
