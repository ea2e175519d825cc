"""Score the output of the C++ program in ascend310_infer/ for the files of preprocess.py."""

from coupalign.commands.postprocess import main

if __name__ == "__main__":
    raise SystemExit(main())
