"""How fast gpt2fast is, as shares of what this machine could do at most. See README.md."""
