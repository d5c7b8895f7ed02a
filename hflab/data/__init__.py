"""Text for language models: sources, tokenizers, the token store and batches.

`hflab.data.batches.prepare_text` is the way in. Nothing here knows about models, the training loop or evaluation.
"""
