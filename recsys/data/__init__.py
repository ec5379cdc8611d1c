"""Data: schemas, the encoder, batches, readers and named sources."""
