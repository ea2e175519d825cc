"""Pretrain a small model on scenes of RefShapes, to start a training from."""

from coupalign.commands.pretrain import main

if __name__ == "__main__":
    raise SystemExit(main())
