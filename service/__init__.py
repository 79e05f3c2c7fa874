"""The online program: ranks candidates over HTTP. Shares ``models`` with the offline jobs, but for the
torch models of ``models/ctr``."""
