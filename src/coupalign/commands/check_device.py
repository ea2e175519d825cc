"""Check a device, its libraries and this model on it, within five minutes, before a long training.

It prints a row for each check: PASS, FAIL, WARN (read the note) or SKIP. The exit code is 1 if a row failed.
docs/devices.md explains the rows and what to do.

    coupalign check-device --device_target Ascend --output check.json
    coupalign check-device --device_target GPU --precision fp16 --rows paper_size
"""

from __future__ import annotations

import json
import time

from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.device_check.rows import ROWS
from coupalign.errors import UserError
from coupalign.files import check_writable, write_text

KEYS = ["device_target", "precision", "jit_level", "cpu_kernels", "model"]
OPTIONS = [
    option("--output FILE.json", "results to attach to an issue", default="device_check.json"),
    option("--rows NAMES", "only these rows, separated by commas (default: all)", default=""),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=KEYS)
    output, names = check_writable(args.output), args.rows.split(",") if args.rows else list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise UserError(f"--rows has {unknown[0]!r}: choose among {', '.join(ROWS)}")
    from coupalign.device_check.run import run_rows
    from coupalign.device_check.versions import find_versions

    start, rows = time.monotonic(), []
    versions = find_versions(config.run.device_target)
    print(f"{'row':18} {'':4} {'difference':>10} {'tolerance':>9} {'s':>6}  note")
    for row in run_rows(config, names, versions):
        rows.append(row)
        numbers = ["" if each is None else f"{each:.2g}" for each in (row["difference"], row["tolerance"])]
        line = f"{row['row']:18} {row['status']:4} {numbers[0]:>10} {numbers[1]:>9} {row['seconds']:>6}  {row['note']}"
        print(line, flush=True)
    failed = [row["row"] for row in rows if row["status"] == "FAIL"]
    seconds = round(time.monotonic() - start, 1)
    where = {"device_target": config.run.device_target, "precision": config.run.precision}
    result = {"failed": failed, "seconds": seconds, "versions": versions, "rows": rows, **where}
    write_text(output, json.dumps(result, indent=2) + "\n")
    print(f"{'FAIL: ' + ', '.join(failed) if failed else 'PASS'} in {seconds} s; written to {output}")
    return 1 if failed else 0
