"""Making the packed file from a checkpoint, and what that costs the model."""
