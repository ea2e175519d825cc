"""Train CoupAlign on a data set made by prepare_data.py."""

from coupalign.commands.train import main

if __name__ == "__main__":
    raise SystemExit(main())
