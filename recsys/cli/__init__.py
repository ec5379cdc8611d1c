"""The command line: one file a command, and `app` that finds and runs them."""
