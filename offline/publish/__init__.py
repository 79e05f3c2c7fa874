"""Into Redis: stage a release, gate it, switch to it, roll back, prune. Also the way interactions come back.

publish     all of it in order, or one producer alone; read first
staging     a publication's records, its release, and the live one that stays
gate        what a release must show first
comparison  a new model beside the live one and popularity
release     the live pointer and the releases behind it
producer    one producer's knowledge: written, held back, taken back
knowledge   knowledge of users and items: from arrays to records
features    profiles and live histories of users, features of items
rewriting   live histories, once the log was loaded under other settings
tombstones  who is forgotten, and the look at it that every writer of users' records takes
erasure     all that Redis holds of users who are forgotten, deleted
requests    requests that wait for a job, and reports
records     what writers share: counts, chunks, the stream of changes, and the cache of what was written
indexes     indexes of item vectors
popularity  likes of the last days
undo        what records held before they were changed
snapshot    the item table of a release as files
connection  which Redis
bulk        many commands to it at once
streams     interactions and exposures: streams -> offline
archive     the same streams -> Parquet files
"""
