"""HTTP under uvicorn: what a connection may cost, how a process leaves, and several processes on one port.

connection   one HTTP connection: limits of bytes and time, refusals in the envelope, offers of HTTP/2 that are ignored
connections  all connections of a process: their number, their unfinished bytes, and the sweep of those that hang
descriptors  how many connections a process may open
draining     uvicorn's server, which leaves without losing a request
tls          the certificate of the port, and who may call
supervisor   starts workers, and others in place of those that end or stand still
workers      what each process sets for itself; the service in one process, or in several
"""
