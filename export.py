"""Export a checkpoint as MindIR, and check the file against the model."""

from coupalign.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
