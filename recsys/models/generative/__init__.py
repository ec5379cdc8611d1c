"""Models that say what comes next in a history: by scores of all items, or token after token of an item."""
