"""`python scripts/evaluate.py …` is `recsys eval …`, for batch jobs that name a file to run."""

import sys

from recsys.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
