"""How fast this machine is at most, and how near a model comes: `gpt2fast bench`, benchmarks/."""
