"""Text and labelled examples: sources, splits, tokenizers, the token store and batches.

The ways in: `hflab.data.batches.prepare_text` for language models, `hflab.data.example_encoding.prepare_examples` for rows with labels or
targets, `hflab.data.sentences.prepare_sentences` for pre-training on masked pairs of sentences. Nothing here knows about models, the training
loop or evaluation.
"""
