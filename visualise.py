"""Draw pictures of evaluations, predictions and trainings."""

from coupalign.commands.visualise import main

if __name__ == "__main__":
    raise SystemExit(main())
