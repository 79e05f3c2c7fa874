"""The log of what was shown to whom."""
