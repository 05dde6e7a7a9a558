"""Measurements of what the product does, each a command that prints one JSON object as its last line."""
