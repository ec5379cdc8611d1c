"""Train recommenders and serve them at the lowest latency that your hardware allows."""

__version__ = "0.1.0"
