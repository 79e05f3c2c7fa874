"""The service beside plain ones and beside the bare model."""
