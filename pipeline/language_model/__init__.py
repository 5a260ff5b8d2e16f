"""What a language model makes of text, causal or masked, and lm-eval's `LM` interface over it.

load(folder)      the scorer of a model folder, by its architecture
causal, trie      log-likelihoods, each distinct prefix computed once
masked            pseudo-log-likelihoods, all masked copies batched
generation        what a causal model writes; passes, trials: how prompts are read, and what its architecture allows
harness           lm-eval's view, live and from what was recorded
`trie` and `plain_text` are light; the others import torch and transformers, `harness` imports lm-eval.
"""
