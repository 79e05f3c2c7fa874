"""Users who are forgotten, or not remembered: what deletes them, and how every worker knows of it.

tombstones  the tombstones as this worker knows them
traces      all that Redis holds of a user: looked for, deleted, told
requests    requests to the next job, which for a user who is forgotten are the receipts
retention   entries of streams end after some days
erasure     forgetting a user, from the tombstone to the receipt
"""
