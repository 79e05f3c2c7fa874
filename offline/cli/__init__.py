"""The command line: options and exit codes; what a job does is elsewhere."""
