"""Check a device, its libraries and this model on it before a long training."""

from coupalign.commands.check_device import main

if __name__ == "__main__":
    raise SystemExit(main())
