"""The subcommands that do one thing and end. Each takes the parsed options and gives an exit code.

With `--json` stdout holds one JSON document, or a line for each event; what is for people goes to
stderr. What stands in the log, names and titles are foreign text: a terminal gets them without
control characters.
"""
