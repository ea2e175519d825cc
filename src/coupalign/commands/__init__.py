"""The programs: each module parses its arguments, checks them and calls one function of the package."""
