"""Stages as jobs of Slurm: ``target: slurm`` in the machine file (``launch.yaml``); docs/cluster.md.

The launcher that ``dvc repro`` starts keeps all that it does on one machine and hands the processes to Slurm: one job
per stage, its ranks started by ``srun``. :mod:`target` reads the machine file, :mod:`script` writes the batch script,
:mod:`attempt` remembers what was submitted, :mod:`queue` asks Slurm, :mod:`follow` submits, waits, re-attaches and
cancels, :mod:`job` and :mod:`rank` run inside the job.
"""
