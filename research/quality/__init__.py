"""The quality benchmark: our models and public peers on the same samples, judged and reported in one way."""
