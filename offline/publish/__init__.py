"""Into Redis: stage a release, gate it, switch to it, roll back, prune. Also the way interactions come back.

records   what is written for users and items          release   the live pointer, the list of releases
gate      what a release must show first               stage     all of it in order
streams   interactions and exposures -> offline        connection  which Redis
"""
