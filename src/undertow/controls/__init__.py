"""Controls: trusted and planted rows that say how far a harm can be trusted, and where to cut."""
