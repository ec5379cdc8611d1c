"""Models that generate an item: token after token of its semantic id."""
