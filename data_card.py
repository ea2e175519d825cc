"""Describe a prepared data set on an HTML page: counts, lengths, areas, words and sample images."""

from coupalign.commands.data_card import main

if __name__ == "__main__":
    raise SystemExit(main())
