"""Segment the object that an expression refers to in images of your own."""

from coupalign.commands.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
