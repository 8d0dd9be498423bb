"""Stages as pods: the machine file, the pod, and the few calls of the API that they need."""
