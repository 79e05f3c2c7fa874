"""Into Redis: stage a release, gate it, switch to it, roll back, prune. Also the way interactions come back.

stage    all of it in order                             gate     what a release must show first
records  knowledge and item features                    users    profiles and live histories
release  the live pointer and the releases behind it    streams  interactions and exposures -> offline
connection  which Redis
"""
