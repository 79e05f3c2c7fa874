"""Candidates for requests that bring none, from the vectors and the popularity of a release's items."""
