"""``replicated up``: a stack of tiers on one machine, as a file says it, kept running."""
