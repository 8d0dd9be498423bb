"""Several processes: the same samples, the same randomness, the same weights as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.launch import free_port
from tests.training.toy import ADAMW, params, run

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
from pathlib import Path
from pipelines.processes import leave_group
from tests.training.toy import ADAMW, params, run
objective, started = run(Path(sys.argv[1]), params(steps=int(sys.argv[2]), optimizer=ADAMW))
assert started.accelerator.num_processes == int(sys.argv[3]), started.accelerator.num_processes
leave_group()
"""


@pytest.mark.slow
def test_two_processes_train_what_one_trains_and_resume_exactly(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def together(folder: str, steps: int) -> None:
        launcher = ["torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}"]
        command = [sys.executable, "-m", *launcher, str(script), str(tmp_path / folder), str(steps), "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-3000:]

    together("two", 6)
    together("cut", 4)
    together("cut", 6)
    # AdamW, because Muon orthogonalises in bf16, which turns a last-bit difference of sums into 1 %.
    run(tmp_path / "one", params(steps=6, optimizer=ADAMW))

    def weights(folder: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / folder / "out" / "model.safetensors")

    for name, tensor in weights("two").items():
        assert torch.equal(tensor, weights("cut")[name]), name
        torch.testing.assert_close(tensor, weights("one")[name], rtol=5e-4, atol=5e-5)
    metrics = json.loads((tmp_path / "two" / "metrics" / "toy.json").read_text())
    assert "processes 2" in metrics["ran_on"]
