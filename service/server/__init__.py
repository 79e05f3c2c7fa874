"""HTTP connections under uvicorn: what they may cost, and which requests are let in.

connection   one HTTP connection: limits of bytes and time, refusals in the envelope, offers of HTTP/2 that are ignored
connections  all connections of a process: their number, their unfinished bytes, and the sweep of those that hang
admission    how many requests may be under way, from the capacity that was measured
"""
