"""The Linux ABI, thin: numbers proved by their formula, one wrapper for each call."""
