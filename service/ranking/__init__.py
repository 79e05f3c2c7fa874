"""The domain: one request from candidates to an order. No web framework, Redis or ONNX in here.

ranker      the story of one request, step by step; the file to read first
state       the request under way: arms with their releases, user, candidates, and the steps of the ladder taken so far
candidates  the candidates looked up, scored with an arm's settings, ordered, reranked, and two orders merged
exploring   orders that chance has a part in: a drawn head, team draft
answer_log  metrics and the exposure of an answer
degraded    the ladder, and the errors by which a port asks for one of its steps
deadline    the deadline of a request, and the times of its steps
types       request, arms, user, sample, answer: the domain's words as data
ports       what the ranker needs from the outside, and a release
"""
