"""Releases: followed, loaded from their files beside the live one, brought up to date, and swapped by one reference.

watcher     which release is served; read first
loader      one release: its model, its item table, its indexes
items       its item table: mapped and brought up to date, or made of the records in Redis
loaded      the result, and the state of its files
background  threads of the lowest priority
unmapping   the memory of a replaced one, given back piece by piece
"""
