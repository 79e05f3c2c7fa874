"""The language that the online service and the offline jobs share.

Everything here depends on numpy, pydantic and xxhash alone. A datum that crosses from one program to the other is
defined in this package, carries a version and a fingerprint, and is refused by a reader that does not know it.

schema        which features exist, and how a raw value becomes an index
encoding      raw user and item data -> model input tensors; the one encoder of training and serving
items         statistics of items, the layout of their packed features, and the in-process item table
knowledge     packed knowledge records and the vector spaces they belong to
arrays        types of arrays, by what they hold
packing       many item or knowledge records packed at once, in arrays
bulk          many packed item or knowledge records read at once, in arrays, and the item rows that they give
lookup        ids of a catalogue, packed, and found by an array of hashes
snapshot      an item table as mapped files, and the stream of changes since
popularity    recent likes of items, in a file
ids           ids of users, items and units, and those that stand for nobody
times         bounds of the time of an interaction
events        interactions: stream entries and the packed live history of a user
exposures     what was shown to whom, as the service logs it
experiments   the experiments file: layers, experiments and arms
forgetting    tombstones: who was forgotten, and who is not to be remembered
requests      requests to the next job, receipts among them; reports, texts and exports that jobs publish
request_places  where requests lie in Redis, and the scripts that write them
traces        what Redis stores of a user, readable
unknown_keys  what is wrong with a configuration file, and which key was meant in place of an unknown one
profile       raw features of a user
prompts       the prompt of the reranker, which events it tells, and values made harmless inside prompts
leaving       fields that prompts carry, and the servers that may read them
graphemes     where a text may be cut without splitting what people see as one character
reranker      manifest of a reranker, its calibration and canaries, and the mix with CTR scores
rerank_items  names, texts and vectors of items, for prompts
keys          every Redis key
prefixes      key prefix and own folders of a configuration
artifact      manifests: of a CTR model (inside its ONNX file) and of a release (behind the live pointer)
"""
