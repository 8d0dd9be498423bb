"""Stages as pods of Kubernetes: ``target: kubernetes`` in the machine file (``launch.yaml``); docs/cluster.md.

The launcher that ``dvc repro`` starts keeps all that it does on one machine and hands the processes to a pod, through
the Pipes client of dagster-k8s. :mod:`target` reads the machine file, :mod:`pod` writes the pod and reads what the API
says of it, :mod:`client` speaks with the API (the only module that needs dagster-k8s), :mod:`follow` creates, waits,
re-attaches and cancels, :mod:`job` runs inside the pod.

The API itself sees to it that a stage runs once: the pod's name follows from project and stage, so a second one of that
name is refused wherever it comes from, however the first launcher died.
"""
