"""Train and evaluate the rows of an ablation study and compare them with the paper's figures."""

from coupalign.commands.study import main

if __name__ == "__main__":
    raise SystemExit(main())
