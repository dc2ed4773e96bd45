"""Where the rooms meet: the audit, its stages, its run folder."""
