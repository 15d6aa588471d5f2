"""The parts of `tools/benchmark.py`: a file for each subcommand, and the code that they share.

`arguments` holds every command line, and imports nothing slow. A subcommand `<name>` is a function
`add_<name>` there and a file `<name>.py` with `run(args) -> Part`.
"""
