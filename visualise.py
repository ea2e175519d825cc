"""Draw pictures of evaluations, predictions and trainings. The sub-commands, each with --help:"""

from coupalign.commands.visualise import main

if __name__ == "__main__":
    raise SystemExit(main())
