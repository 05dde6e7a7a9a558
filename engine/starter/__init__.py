"""The embedded starter model: the world it is trained on and the scripts that build it."""
