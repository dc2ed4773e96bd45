"""The control stages of an audit: what is planted and kept apart before training, and what it says afterwards."""
