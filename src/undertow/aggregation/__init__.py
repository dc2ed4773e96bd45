"""From influence to one score per sample."""
