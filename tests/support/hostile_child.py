"""A child of tests/formats/test_hostile.py: what reading each file takes, under an address-space limit and an alarm.

    python tests/support/hostile_child.py FILE...

Prints a JSON object a file: its name, its size, the most memory above what there was before the first, and the error.
Memory that is not given back counts for the files that follow, so that none can hide in what another left. With
NUMLSTM_PLANTED=free nothing is charged: a fault to be found.
"""

import gc
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOM = 400 << 20  # bytes of address space beyond what the imports took
SECONDS = 30  # of work, until a file counts as a hang


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def main(paths: list[str]) -> None:
    import numlstm

    warnings.simplefilter("ignore")
    for known in ("onnx/torch_script_three.onnx", "keras/keras3_stack.keras", "keras/keras2_stack.h5"):
        numlstm.load_tensors(FIXTURES / known)  # every module is imported now
    numlstm.load(FIXTURES / "onnx/torch_script_three.onnx")
    if os.environ.get("NUMLSTM_PLANTED") == "free":
        from numlstm.formats.budget import Budget

        Budget.hold = lambda *arguments: None
    room = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = status("VmRSS")
    for path in paths:
        gc.collect()
        print(path, flush=True)  # the last line of a child that dies
        Path("/proc/self/clear_refs").write_text("5")  # the mark of the most memory begins anew
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        said = ""
        try:
            numlstm.load_tensors(path)
            for found in numlstm.list_lstms(path)[:2]:
                numlstm.load(path, found.name)
        except (ValueError, OSError) as error:
            said = str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = status("VmHWM") - before
        print(json.dumps({"file": path, "size": os.stat(path).st_size, "peak": peak, "said": said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
