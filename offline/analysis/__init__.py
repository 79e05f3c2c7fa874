"""Looking at what is live: status, and a replay of logged requests against the offline model."""
