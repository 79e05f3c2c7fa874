"""Troubles that are made for a running service, and what its callers saw: ``make chaos`` writes docs/reliability.md.

``python -m tests.chaos [--short] [--soak] [--only WORD] [--write docs/reliability.md]``

rows        A row of the page: trouble, goal, outcome; which rows there are
traffic     Callers that know what each user's answer has to be
stand       A Valkey, a tiny release and service processes for a row
page        docs/reliability.md
on_*        The rows, by what is in trouble: redis, files, processes, clients, models, jobs, and suites of tests
"""
