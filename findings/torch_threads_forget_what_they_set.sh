#!/usr/bin/env bash
# torch 2.13.0 on processors: torch.set_num_threads() in a thread is undone by a call in another, until the thread has asked.
#
# The number is kept for every thread, and copied from what anybody set last when a thread first computes or asks for it.
# So a pool whose initializer sets 1, as a reader beside a training loop should, has the loop's number again where the
# loop sets its own before the pool's first work; its threads then have teams of their own, spinning on the loop's cores.
# And the other way round: one reader's 1 is inherited by every thread that begins later, but not by the loop. Asking
# (get_num_threads) right after setting makes it stay. Seen, with 4 in the main thread:
#   a thread sets 1:                              main 4, a thread that begins later 1
#   sets 1, main sets 4, the thread looks:        4
#   sets 1 and looks, main sets 4, it looks:      1
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
from concurrent.futures import ThreadPoolExecutor

import torch

print("torch", torch.__version__)
torch.set_num_threads(4)
assert torch.get_num_threads() == 4


def in_a_thread_that_set_one(looks: bool) -> tuple[int, int, int]:
    """What main, a thread that begins after it, and the thread itself have, once main has set 4 again."""
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as later:
        pool.submit(torch.set_num_threads, 1).result()
        if looks:
            assert pool.submit(torch.get_num_threads).result() == 1
        main, begun = torch.get_num_threads(), later.submit(torch.get_num_threads).result()
        torch.set_num_threads(4)
        return main, begun, pool.submit(torch.get_num_threads).result()


forgets, keeps = in_a_thread_that_set_one(False), in_a_thread_that_set_one(True)
print("main, a later thread, and the thread that set 1:", forgets)
print("the same, where that one has looked before main set 4:", keeps)
assert forgets == (4, 1, 4) and keeps == (4, 1, 1)
print("as stated")
PY
