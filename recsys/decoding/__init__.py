"""Decoding: from a history and a generative model to the best items of a catalogue."""
