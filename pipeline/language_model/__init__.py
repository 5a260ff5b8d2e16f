"""What a language model makes of text: causal scoring, each distinct prefix once, and lm-eval's `LM` interface over it.

`trie` and `plain_text` are light; `causal` imports torch and transformers, `harness` imports lm-eval.
"""
