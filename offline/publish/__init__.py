"""Into Redis: stage a release, gate it, switch to it, roll back, prune. Also the way interactions come back.

stage      all of it in order, or one producer alone      gate     what a release must show first
producer   one producer's knowledge: written, taken back  users    profiles and live histories
knowledge  knowledge records                              records  item features, counts
release    the live pointer and the releases behind it    streams  interactions and exposures -> offline
undo       what records held before they were changed     memo     what Redis holds, without reading it
connection which Redis
"""
