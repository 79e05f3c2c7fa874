"""Releases: followed, loaded from their files beside the live one, brought up to date, and swapped by one reference.

watcher    which release is served; read first
loader     one release: its model, and its item table, mapped and brought up to date
unmapping  the memory of a replaced one, given back piece by piece
"""
