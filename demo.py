"""Serve a web page to try a model on: choose an image, say what to find, see the mask."""

from coupalign.commands.demo import main

if __name__ == "__main__":
    raise SystemExit(main())
