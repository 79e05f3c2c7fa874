"""The online program: ranks candidates over HTTP. Shares only the contract with the offline jobs."""
