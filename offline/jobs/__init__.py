"""How jobs run, and what can be learnt of them: above data, knowledge, training and publication, below the commands.

runs            a run under way: how it holds the work folder, and how it ends
ledger          the ledger of runs: a line each, also of those that were killed
steps           which step of the pipeline is up to date
owner_texts     texts about users and items, published for people to read
requests        requests that wait for a job: dry runs, and what no job carries out yet
events          what arrived for the interaction log, and since when
llm_requests    what a run asks of the language model, and the answers of the last one
one_producer    one producer: up to date or not, published within the live release, and taken back
refusals        what would keep a refresh from ending well, before it costs anything
outlook         what a configuration will make of its data: samples, coverage, needs, memory
work            what a run would ask and encode
rates           how long that will take on this machine
dry_run         what a refresh would do and cost
status          what is live, what each producer holds, what the last runs did and cost
prometheus      the same as metrics in a file
forecast        what more users would take
calls           calls of jobs to a running service: the API key, and refusals in words
verify          logged requests answered anew by torch, and compared with what the service answered
"""
