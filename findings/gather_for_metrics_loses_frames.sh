#!/usr/bin/env bash
# accelerate 1.15.0: gather_for_metrics throws real frames away, or keeps repeated clips, where a row is not a clip.
#
# It takes the samples off that were repeated to fill the last batch. How many rows those are it does not ask the tensor:
# of the last batch it keeps as many rows as samples remained. Features per frame, [clips * frames, channels], as video
# metrics have them, are cut to the first few frames; a mean loss per process keeps the repeated clips. Seen with two
# processes, 10 clips of 4 frames and batches of 2:
#   frames [clips * frames]: 16, 16 and 2 rows, 34 where 40 are right; half of clip 8 and all of clip 9 are lost
#   mean loss of a process:  the mean over the data set is 3.83 where 4.50 is right (clips 0 and 1 count twice)
#   [clips, frames]:         40, as it should
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > "$place/try.py" <<'PY'
import accelerate
import torch
from torch.utils.data import DataLoader

accelerator = accelerate.Accelerator(cpu=True)
assert accelerator.num_processes == 2
clips, frames = 10, 4
loader = accelerator.prepare(DataLoader(torch.arange(clips), batch_size=2))
flat, kept, losses = [], [], []
for numbers in loader:
    per_frame = numbers[:, None] * frames + torch.arange(frames)
    flat.append(accelerator.gather_for_metrics(per_frame.flatten()))
    kept.append(accelerator.gather_for_metrics(per_frame))
    losses.append(accelerator.gather_for_metrics(numbers.float().mean()[None]))
if accelerator.is_main_process:
    seen = torch.cat(flat).tolist()
    print("accelerate", accelerate.__version__)
    print("rows of [clips * frames]:", [len(one) for one in flat], "of", clips * frames)
    print("frames that are missing:", sorted(set(range(clips * frames)) - set(seen)))
    print(f"mean of the mean losses: {torch.cat(losses).mean():.2f}; right: {(clips - 1) / 2:.2f}")
    assert [len(one) for one in flat] == [16, 16, 2]
    assert sorted(torch.cat(kept).flatten().tolist()) == list(range(clips * frames))
    assert abs(torch.cat(losses).mean() - 23 / 6) < 1e-4
    print("as stated")
accelerator.end_training()
PY
OMP_NUM_THREADS=1 "$place/venv/bin/python" -m torch.distributed.run --standalone --nproc_per_node 2 "$place/try.py"
