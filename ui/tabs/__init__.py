"""The tabs, one file each: what a person does there, and nothing about the other tabs."""
