"""Segment the object that an expression refers to in images of your own. See coupalign.commands.predict."""

from coupalign.commands.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
