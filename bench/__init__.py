"""Speed, measured.

micro       processor time of single steps of a request
serving     the whole service beside others
vllm_server  a vLLM server of one's own on this machine's CPU
publishing  records into Redis: all, none and 1 % of them changed
retrieval   search for candidates, by kind of index
supervisors  what keeps worker processes alive: uvicorn's, gunicorn's, ours (docs/decisions/0022-supervisor.md)
supervised   the application that they keep alive, under our supervisor
supervised_gunicorn  the same under gunicorn, with our server

The folder ``peers`` has scripts that train AutoGraph and LightGCN on the same matching task (docs/autograph.md).
"""
