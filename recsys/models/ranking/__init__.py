"""Ranking models: from a batch of examples to logits."""
