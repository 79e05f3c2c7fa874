"""Statistics of A/B experiments: from logged exposures and interactions to effects with honest intervals.

Tables and arrays in, frozen values out: nothing here reads a file, a stream or a command line.
"""
