"""gpt2fast beside other engines: the same models, the same prompts, rounds in turn."""
