"""Looking at a deployment without changing it.

status    what is live, what each producer holds, what the last runs did and cost
forecast  what more users would take
verify    logged requests answered anew by torch, and compared with what the service answered
last_run  the data of a job's last run, for jobs that ask no language model
"""
