"""Scoring jobs: files in, files out."""
