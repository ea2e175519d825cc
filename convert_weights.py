"""Convert downloaded Swin and BERT checkpoints into one checkpoint to start a training from."""

from coupalign.commands.convert_weights import main

if __name__ == "__main__":
    raise SystemExit(main())
