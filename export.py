"""Export a checkpoint as MindIR, and check the file against the model. See coupalign.commands.export."""

from coupalign.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
