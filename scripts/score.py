"""`python scripts/score.py …` is `recsys score …`, for batch jobs that name a file to run."""

import sys

from recsys.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
