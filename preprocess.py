"""Write the samples of a split as files, for the C++ program of ascend310_infer/."""

from coupalign.commands.preprocess import main

if __name__ == "__main__":
    raise SystemExit(main())
