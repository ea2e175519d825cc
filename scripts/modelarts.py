"""Boot file of a Huawei Cloud ModelArts training job: train.py with the platform's names of input and output.

ModelArts copies the job's input from OBS into the container, calls this file with --data_url and --train_url, two local
directories, and copies what is written to the second one back to OBS. They become --data_dir and --output_dir; all
other arguments, which the job lists as hyperparameters, are those of train.py. docs/clusters.md has the settings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = {"--data_url": "--data_dir", "--train_url": "--output_dir"}


def main(arguments: Sequence[str]) -> int:
    remote = next((argument for argument in arguments if "obs://" in argument), None)
    if remote is not None:
        print(f"error: {remote} is not a directory: declare it as an input or output of the job", file=sys.stderr)
        return 2
    sys.path.insert(0, str(REPOSITORY / "src"))  # ModelArts downloads the repository, but does not install it
    from coupalign.commands import train

    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        renamed.append(NAMES.get(name, name) + equals + value)
    return train.main(renamed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
