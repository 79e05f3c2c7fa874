"""LLM calls of the offline jobs: one client with a response cache, retries, an account, and two back ends.

Start reading at `client.py` (the order of one run) and `session.py` (how a job opens it). Nothing happens on import.
"""
