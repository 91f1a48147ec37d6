"""A child of tests/formats/test_fuzz.py: reads mutants of one model file, under an address-space limit and an alarm.

    python tests/support/fuzz.py FORMAT FILE FOLDER FIRST COUNT [PLANT]

Mutants are numbered, and each is made from its number alone, so that one that kills the child can be made again. In
a zip archive an entry is mutated and the archive packed anew, checksums included; in a safetensors file the length
before the header is put right: what is mutated is what a parser sees. The last line printed is a JSON object of counts.

PLANT is a fault to be found: ``allocate``, ``crash``, ``hang``, ``trip``.
"""

import io
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

ROOM = 256 << 20  # bytes of address space beyond what the imports took; the files are some kilobytes
SECONDS = 5  # until a mutant counts as a hang
RAW = 0.1  # share of zip archives that are mutated as they are, checksums and all


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four small damages."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        elif kind == 2:  # a length, a count, an offset
            width = rng.choice((2, 4, 8))
            value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**64 - 1, len(data), rng.getrandbits(63)))
            data[at : at + width] = (value & (256**width - 1)).to_bytes(width, rng.choice(("little", "big")))
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 4:
            end = at + rng.choice((1, 4, 16, 64))
            data[at:at] = data[at:end] * rng.choice((1, 2, 30))
        elif kind == 5:
            other = rng.randrange(len(data) + 1)
            data[at : at + 8] = data[other : other + 8]
        elif kind == 6 and rng.randrange(4) == 0:
            del data[at:]
        else:  # digits of a number in a text: JSON, a header of NumPy's
            digits = [k for k, byte in enumerate(data[:4096]) if 48 <= byte < 58]
            if digits:
                at = rng.choice(digits)
                data[at : at + 1] = rng.choice((b"-1", b"0", b"9", b"99999999999", b"1e9", b"[", b'"'))
    return bytes(data)


def mutant(form: str, valid: bytes, number: int) -> bytes:
    """Mutant ``number`` of a valid file."""
    rng = random.Random(f"{form} {number}")
    if valid.startswith(b"PK"):
        return _zip_mutant(valid, rng)
    if form.startswith("safetensors"):
        length = int.from_bytes(valid[:8], "little")
        header, numbers = valid[8 : 8 + length], valid[8 + length :]
        if rng.random() < 0.8:
            header = mutated(header, rng)
        else:
            numbers = mutated(numbers, rng)
        return struct.pack("<Q", len(header)) + header + numbers
    # what describes the numbers is far shorter than they are: half of the damage is to the first kilobyte
    if rng.random() < 0.5:
        return mutated(valid[:1024], rng) + valid[1024:]
    return mutated(valid, rng)


def _zip_mutant(valid: bytes, rng: random.Random) -> bytes:
    if rng.random() < RAW:
        return mutated(valid, rng)
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    # numbers alone hold no structure: pickles, headers and descriptions are hit more often
    structured = [k for k, (name, _) in enumerate(entries) if name.endswith((".pkl", ".json", ".h5", ".npy", ".py"))]
    at = rng.choice(structured) if structured and rng.random() < 0.8 else rng.randrange(len(entries))
    name, data = entries[at]
    what = rng.random()
    if what < 0.9:
        if name.endswith(".npy") and rng.random() < 0.7:
            entries[at] = (name, mutated(data[:128], rng) + data[128:])
        else:
            entries[at] = (name, mutated(data, rng))
    elif what < 0.95:
        del entries[at]
    else:
        entries[at] = (entries[rng.randrange(len(entries))][0] + rng.choice(("", "x", "/")), data)
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)  # of no time of day
    return into.getvalue()


READERS = {
    "safetensors": ("safetensors", "read"),
    "safetensors-int8": ("safetensors", "read"),
    "npz": ("npz", "read"),
    "npz-flax": ("npz", "read"),
    "npz-haiku": ("npz", "read"),
    "npz-mlx": ("npz", "read"),
    "npz-norms": ("npz", "read"),
    "shards": ("json_models", "read"),
    "torch-zip": ("torch.archive", "read"),
    "torchscript": ("torch.archive", "read"),
    "torch-module": ("torch.archive", "read"),
    "torch-legacy": ("torch.legacy", "read"),
    "torch-arrays": ("torch.archive", "read"),
    "torch-pickle": ("torch.legacy", "read"),
    "torch-pickle-0": ("torch.legacy", "read"),
    "torch-export": ("torch.exported", "read"),
    "torch-quantised": ("torch.archive", "read"),
    "torch-quantised-state": ("torch.archive", "read"),
    "torch-quantised-script": ("torch.archive", "read"),
    "torch-policy": ("torch.archive", "read"),
    "torch-paddle": ("torch.legacy", "read"),
    "torch-frozen": ("torch.archive", "read"),
    "json-state": ("json_models", "read"),
    "json-layers": ("json_models", "read"),
    "json-weights": ("json_models", "read"),
    "onnx": ("onnx.reader", "read"),
    "onnx-reversed": ("onnx.reader", "read"),
    "onnx-quantised": ("onnx.reader", "read"),
    "onnx-options": ("onnx.reader", "read"),
    "keras": ("keras.reader", "read_zip"),
    "keras2-h5": ("keras.reader", "read_h5"),
    "keras2-peepholes": ("keras.reader", "read_zip"),
}


def main(form: str, file: str, folder: str, first: int, count: int, plant: str = "") -> None:
    import importlib

    import numlstm

    valid = Path(file).read_bytes()
    path = Path(folder, "mutant")
    warnings.simplefilter("ignore")
    path.write_bytes(valid)
    assert numlstm.list_lstms(path), "the file that is mutated holds an LSTM"  # and every module is imported now
    numlstm.load(path)

    module, name = READERS[form]
    reader = importlib.import_module(f"numlstm.formats.{module}")
    read = getattr(reader, name)
    reached = 0

    def counted(*arguments: object) -> object:
        nonlocal reached
        reached += 1
        if plant and reached == 20:
            fault(plant)
        return read(*arguments)

    setattr(reader, name, counted)
    size = next(
        int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line
    )
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    counts = {"mutants": 0, "reached": 0, "loaded": 0, "refused": 0, "slowest": 0.0, "slowest_number": -1}
    for number in range(first, first + count):
        path.write_bytes(mutant(form, valid, number))
        print(number, flush=True)  # the last line of a child that dies
        before, begin = reached, time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        counts["loaded" if survived(path) else "refused"] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.perf_counter() - begin
        counts["mutants"] += 1
        counts["reached"] += reached > before
        if took > counts["slowest"]:
            counts["slowest"], counts["slowest_number"] = took, number
    print(json.dumps(counts))


def survived(path: Path) -> bool:
    """Whether the mutant's LSTMs load; an error of any other kind than promised goes on to end the child."""
    import numlstm

    try:
        numlstm.load_tensors(path)
        for found in numlstm.list_lstms(path):
            numlstm.load(path, found.name)
    except (ValueError, OSError):
        return False
    return True


def fault(plant: str) -> None:
    if plant == "allocate":
        bytearray(1 << 30)
    elif plant == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif plant == "hang":
        while True:
            pass
    elif plant == "trip":
        raise SystemExit("a reader that ends the process")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:])
