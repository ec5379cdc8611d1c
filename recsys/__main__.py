"""`python -m recsys` is the console command `recsys`."""

from recsys.cli.app import entry

if __name__ == "__main__":
    entry()
