"""Teaching a LoRA one dataset, in a process of its own: `python -m engine.training <job folder>`.

`data` turns photos and captions into latents and text embeddings, `objective` says what is learnt, `loop` is the one
training loop, `checkpoint` lets it go on after a kill, `samples` shows what has been learnt so far.
"""
