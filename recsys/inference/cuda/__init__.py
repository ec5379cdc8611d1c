"""Sessions on a GPU: a batch goes there as one packed copy, and comes back by the replay of one graph."""
