"""Look-ups on a GPU: one launch for all tables, rows in its memory, in pinned host memory, or in both."""
