"""Models that say what comes next in a history."""
