"""`python scripts/train.py …` is `recsys train …`, for batch jobs that name a file to run."""

import sys

from recsys.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
