"""Nothing that is wrong with a machine keeps the kernels from running or makes them run what others wrote.

Every test is of fresh processes of an unprivileged user, and every guard is also switched off, to see that it is
what guards.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import faults
import pytest
from faults import MARK, end
from needs import leave_out

from numlstm.kernels.loading import cache as kernel_cache
from numlstm.kernels.loading import jit, levels, registry
from numlstm.wheels import libraries

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.name != "posix", reason="faults of POSIX systems")]
ALONE = "compiled for this process alone: "
# Guards of the cache switched off, in a process that begins with one of these
TRUSTING = """
from numlstm.kernels.loading import cache
cache._check_above = cache._check_own = lambda *a, **k: None
os.O_NOFOLLOW = 0
"""
UNSEALED = """
from numlstm.kernels.loading import cache
seal = cache.sealed
cache.read = lambda path: path.read_bytes()[len(seal(path, b"")):]
"""


@pytest.fixture(scope="module")
def code():
    return jit.object_code("float32", registry.level())[0]


@pytest.fixture(scope="module")
def mark():
    return faults.marker()


@pytest.fixture(scope="module")
def bits():
    return faults.judged()


@pytest.fixture
def place(code):
    place = faults.Place(code)
    yield place
    place.remove()


def need_root():
    if not faults.is_root():
        leave_out("needs root, to make what belongs to another user or to mount")


def test_the_processes_are_those_of_a_user_who_may_not_write_everywhere(place):
    said = place.run("print('ID', os.geteuid()); open('/etc/numlstm', 'w')")
    assert said.all_of("ID") != ["0"] and "PermissionError" in said.error


def test_a_marker_ends_the_process_that_runs_it(place, mark):
    """Else the tests below could not tell who runs it."""
    place.fill(mark)
    assert place.run().status == MARK


# ---- homes and folders that cannot be written

HOMES = {
    "unset": lambda place: None,
    "missing": lambda place: place.folder("shut", mode=0o500) / "none",
    "read-only": lambda place: place.folder("shut", mode=0o500),
    "a file": lambda place: place.file(place.path / "file", b""),
    "nonsense": lambda place: "\udcff/no\nwhere",
}


@pytest.mark.parametrize("home", HOMES)
def test_a_home_that_holds_no_cache(place, bits, home):
    said = place.run(HOME=HOMES[home](place), NUMLSTM_CACHE_DIR=None).right(bits)
    if home in ("unset", "nonsense") and not faults.is_root():
        return  # the system knows this user's own; and a folder of that name can be made here
    assert said.built == 1 and said.origin.startswith(ALONE)
    assert said.out.count("kernels are not cached, since") == 1


def test_a_full_cache_is_used_where_nothing_can_be_written(place, bits, code):
    place.own(place.fill(code).parent, 0o500)
    said = place.run().right(bits)
    assert said.built == 0 and said.origin.startswith("cache: ")


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); tell()"


@pytest.mark.parametrize("how", ["limit", "tmpfs"])
def test_a_full_disk(place, bits, how):
    cache, mounted = place.folder("home", "cache"), False
    if how == "tmpfs":
        need_root()
        mount = ["mount", "-t", "tmpfs", "-o", f"size=16k,mode=0700,uid={faults.NOBODY}", "none", str(cache)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        said = place.run("tell()" if mounted else LIMITED).right(bits)
        assert said.built == 1 and said.origin.startswith(ALONE)
        assert said.out.count("compiled kernels cannot be cached, since") == 1
        assert ("No space left" if mounted else "File too large") in said.out
        assert [path.suffix for path in cache.iterdir()] == [".lock"]  # no half of an object
    finally:
        if mounted:
            subprocess.run(["umount", str(cache)], check=True)


# ---- what others could have written


def of_root(path, mode=0o755):
    need_root()
    os.chown(path, 0, 0, follow_symlinks=False)
    path.chmod(mode)


def writable(name, where, mode):
    """A trap in which others can write: to the cache folder, its parents or the object."""

    def trap(place, mark):
        path = place.fill(mark)
        where(place, path).chmod(mode)
        return "others can write to"

    trap.__name__ = name
    return trap


def folder_of_another(place, mark):
    place.fill(mark)
    of_root(place.cache)
    return "belongs to another user"


def object_of_another(place, mark):
    of_root(place.fill(mark), 0o644)
    return "belongs to another user"


def linked_object(place, mark):
    path = place.fill(mark)
    path.rename(place.home / "elsewhere.o")
    path.symlink_to(place.home / "elsewhere.o")
    return "is a symbolic link"


def parent_of_another_group(place, mark):
    need_root()
    place.fill(mark)
    os.chown(place.home, faults.NOBODY, 1)
    place.home.chmod(0o770)
    return "others can write to"


def parent_of_another_user(place, mark):
    need_root()
    place.fill(mark)
    os.chown(place.home, 1, 1)
    place.home.chmod(0o755)
    return "belongs to another user"


TRAPS = [
    folder_of_another, object_of_another, linked_object, parent_of_another_group, parent_of_another_user,
    writable("folder_of_all", lambda place, path: place.cache, 0o777),
    writable("folder_of_a_group", lambda place, path: place.cache, 0o720),
    writable("sticky_folder_of_all", lambda place, path: place.cache, 0o1777),  # to add to, not to take away from
    writable("object_of_all", lambda place, path: path, 0o666),
    writable("parent_of_all", lambda place, path: place.home, 0o777),
    writable("grandparent_of_all", lambda place, path: place.path, 0o777),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_what_others_could_have_written_is_not_run(place, bits, mark, trap):
    why = trap(place, mark)
    said = place.run().right(bits)
    assert said.built == 1 and said.origin.startswith(ALONE)
    (line,) = [line for line in said.out.splitlines() if "kernels are not cached" in line]
    assert why in line
    assert place.run(TRUSTING + "tell()").status == MARK


def test_what_only_this_user_and_root_can_write_is_used(place, bits, code):
    """Through links and folders of a group that is the user's own, as a umask of 002 makes them."""
    place.home.chmod(0o775)
    place.fill(code)
    (place.path / "way").symlink_to("home/../home")
    place.cache = place.path / "way" / "cache"
    said = place.run().right(bits)
    assert said.built == (0 if os.getuid() == os.getgid() else 1)
    place.home.chmod(0o755)
    said = place.run().right(bits)
    assert said.built == 0 and said.origin.startswith(f"cache: {place.home}/cache")  # the real path


def test_a_link_that_another_user_placed_leads_to_nothing_that_is_run(place, bits, mark):
    """Wherever it leads, the real folder is checked."""
    need_root()
    place.fill(mark)
    os.chown(place.cache, 1, 1)
    common = place.folder("common", mode=0o777)
    (common / "cache").symlink_to(place.cache)
    place.cache = common / "cache"
    said = place.run().right(bits)
    assert said.built == 1 and "belongs to another user" in said.out


def test_folders_that_are_made_are_this_users_alone(place, bits):
    new = place.home / "new"
    said = place.run("os.umask(0); tell()", NUMLSTM_CACHE_DIR=None, XDG_CACHE_HOME=new).right(bits)
    assert said.built == 1 and "and cached" in said.origin
    (path,) = (new / "numlstm").glob("*.o")
    assert [p.stat().st_mode & 0o777 for p in (new, new / "numlstm", path)] == [0o700, 0o700, 0o600]


def test_a_pipe_in_the_objects_place_is_not_waited_for(place, bits):
    path = place.fill(b"")
    path.unlink()
    os.mkfifo(path)
    place.own(path, 0o600)
    said = place.run(timeout=60).right(bits)
    assert "is not a file" in said.out


# ---- objects that are not what they should be


def spoilt(content, fault):
    half = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:half],
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "no seal": content[len(content) - half :],
    }[fault]


@pytest.mark.parametrize("fault", ["empty", "truncated", "flipped", "no seal"])
def test_a_damaged_object_is_built_again(place, bits, code, fault):
    path = place.fill(code)
    place.file(path, spoilt(path.read_bytes(), fault))
    said = place.run().right(bits)
    assert said.built == 1 and said.out.count("are damaged") == 1
    said = place.run().right(bits)
    assert said.built == 0 and "damaged" not in said.out  # mended for the next one


def test_a_flipped_bit_in_any_byte_is_seen(place, mark):
    """In this process, since there are many; a flipped marker is run where nobody looks."""
    folder = place.path / "safe"
    folder.mkdir(mode=0o700)
    path = folder / "object.o"
    content = kernel_cache.sealed(path, mark)
    for n in [*range(len(content) - len(mark)), *range(len(content) - len(mark), len(content), 61)]:
        for bit in (1, 128):
            path.touch(mode=0o600)
            path.write_bytes(content[:n] + bytes([content[n] ^ bit]) + content[n + 1 :])
            assert kernel_cache.read(path) is None, n
    path.touch(mode=0o600)
    path.write_bytes(content)
    assert kernel_cache.read(path) == mark


@pytest.mark.parametrize("other", ["version", "cpu"])
def test_an_object_of_another_version_or_cpu_is_not_run(place, bits, mark, other):
    """It is whole, and under the right name only because somebody has renamed it."""
    path = place.fill(mark)
    level = next(level for level in levels.LEVELS.values() if level != registry.level())
    name = {"version": "float32-x86-64-v3-" + 24 * "0" + ".o", "cpu": kernel_cache.file_name("float32", level)}[other]
    place.file(path, kernel_cache.sealed(path.with_name(name), mark))
    said = place.run().right(bits)
    assert said.built == 1 and "were built as others" in said.out
    place.file(path, kernel_cache.sealed(path.with_name(name), mark))
    moved = f"seal = lambda path, code: bytes({len(kernel_cache.sealed(path.with_name(name), b''))})\n"
    assert place.run(UNSEALED + moved + "tell()").status == MARK


# ---- several processes, and those that die


def test_sixteen_at_once_on_an_empty_cache_compile_once(place, bits):
    place.folder("home", "cache")
    said = [end(process) for process in [place.start(FAULTS_SECONDS=8) for _ in range(16)]]
    assert [one.right(bits).built for one in said].count(1) == 1
    assert sum(one.built for one in said) == 1
    assert len(list(place.cache.glob("*.o"))) == 1


def test_without_the_lock_several_compile(place, bits):
    """All are right all the same. They begin together, when a file appears."""
    place.folder("home", "cache")
    script = """
import contextlib
from numlstm.kernels.loading import cache
cache.turn = contextlib.nullcontext
import numlstm, numpy, llvmlite.binding
print("READY", flush=True)
while not os.path.exists(os.environ["FAULTS_OBJECT"] + ".go"):
    time.sleep(0.01)
tell()
"""
    processes = [place.start(script, FAULTS_SECONDS=3) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == 3 * ["READY\n"]
    (place.path / "kernels.o.go").touch()
    assert sum(end(process).right(bits).built for process in processes) > 1


def begun(process):
    """A process that has said that it compiles."""
    for line in process.stdout:
        if line == "BUILT\n":
            return process
    raise AssertionError(process.communicate())


def test_a_process_that_dies_while_it_compiles_holds_up_nobody(place, bits):
    place.folder("home", "cache")
    first = begun(place.start(FAULTS_SECONDS=600))
    second = place.start()
    time.sleep(3)
    assert second.poll() is None  # it waits
    first.send_signal(signal.SIGKILL)
    assert end(first).status == -signal.SIGKILL
    assert end(second).right(bits).built == 1


def test_a_process_that_is_stopped_while_it_compiles_is_waited_for_a_while_only(place, bits):
    place.folder("home", "cache")
    first = begun(place.start(FAULTS_SECONDS=600))
    try:
        said = place.run("from numlstm.kernels.loading import cache; cache.PATIENCE = 1.0; tell()").right(bits)
        assert said.built == 1 and "another process has been compiling" in said.out
    finally:
        first.kill()
        first.communicate()


KILLED = """
from numlstm.kernels.loading import cache
def killed(*a):
    os.kill(os.getpid(), 9)
if {half}:
    seal = cache.sealed
    class Half(bytes):
        pass
    def write(path, code):
        with cache.atomic.replacing(path, 0o600) as file:
            file.write(seal(path, code)[: len(code) // 2])
            file.flush()
            killed()
    cache.write = write
else:
    os.replace = killed
tell()
"""


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_is_run(place, bits, half):
    cache = place.folder("home", "cache")
    assert place.run(KILLED.format(half=half)).status == -signal.SIGKILL
    assert len(list(cache.glob("*" + kernel_cache.atomic.PART))) == 1
    said = place.run().right(bits)
    assert said.built == 1 and "damaged" not in said.out
    assert list(cache.glob("*" + kernel_cache.atomic.PART)) == []  # swept up
    assert place.run().right(bits).built == 0


# ---- what a system may lack


def test_no_shared_memory(place, bits, code):
    need_root()
    place.fill(code)
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro,mode=0 none /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        leave_out("needs the right to unshare mounts")
    script = """
try:
    open("/dev/shm/numlstm", "w")
except OSError as error:
    print("REFUSED", error)
tell()
"""
    said = place.run(script, before=hide, NUMLSTM_NUM_THREADS="2").right(bits)
    assert said.all_of("REFUSED") and said.built == 0


LIMITED_SPACE = """
import resource
import numlstm, numpy
from numlstm.kernels.loading import registry
numlstm.LSTM(5, 7, seed=0)
if {megabytes} is None:  # what is there by now, and too little for LLVM
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize() + (16 << 20)
else:
    size = {megabytes} << 20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    tell()
except ImportError as error:
    print("ERROR", str(error).replace("\\n", " "))
"""


def test_a_limit_of_address_space(place, bits, code):
    """Enough for a cached object; or too little for LLVM, of which a sentence tells, once for every try."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux")
    place.fill(code)
    few = {"OPENBLAS_NUM_THREADS": "1"}  # each has a stack of its own
    assert place.run(LIMITED_SPACE.format(megabytes=1024), **few).right(bits).built == 0
    said = place.run(LIMITED_SPACE.format(megabytes=None), **few)
    (error,) = said.all_of("ERROR")
    assert said.status == 0 and "numlstm has no float32 kernels" in error and "a limit of memory" in error


def test_nothing_is_compiled_where_llvm_would_run_out_of_address_space(place, bits):
    """LLVM would end the process."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux")
    script = LIMITED_SPACE.format(megabytes=640)
    said = place.run(script, OPENBLAS_NUM_THREADS="1")
    (error,) = said.all_of("ERROR")
    assert said.status == 0 and said.built == 0
    assert "compiling takes 1536 MB of address space, and the limit of this process (ulimit -v) leaves" in error
    unchecked = "from numlstm.kernels.loading import jit; jit._check_room = lambda: None\n"
    assert place.run(unchecked + script, OPENBLAS_NUM_THREADS="1").right(bits).built == 1


def test_without_numba_a_cached_object_runs(place, bits, code):
    place.fill(code)
    said = place.run("sys.modules['numba'] = None; tell()").right(bits)
    assert said.built == 0 and said.origin.startswith("cache: ")


# ---- who calls first

FORKED = """
import threading
def child(work):
    number = os.fork()
    if not number:
        try:
            work()
            sys.stdout.flush()
        finally:
            os._exit(0)
    _, status = os.waitpid(number, 0)
    print("CHILD", os.waitstatus_to_exitcode(status), flush=True)
def told():
    print("BITS", result(), flush=True)
"""


def test_forked_children(place, bits, code):
    """Before the first call, after it, and while another thread compiles."""
    place.fill(code)
    for script in ("child(told)", "result(); child(told)"):
        said = place.run(FORKED + script).right(bits)
        assert said.all_of("CHILD") == ["0"]


def test_a_child_forked_while_another_thread_compiles(place, bits):
    place.folder("home", "cache")
    script = """
thread = threading.Thread(target=result)
thread.start()
while not building:
    time.sleep(0.01)
child(told)
thread.join()
"""
    said = place.run(FORKED + script, FAULTS_SECONDS=3).right(bits)
    assert said.built == 1 and said.all_of("CHILD") == ["0"]
    unsafe = "import signal; os.register_at_fork = lambda **hooks: None\n"  # before numlstm is imported
    stuck = script.replace("child(told)", "child(lambda: (signal.alarm(5), told()))")
    shutil.rmtree(place.cache)
    place.folder("home", "cache")
    said = place.run(FORKED + unsafe + stuck, FAULTS_SECONDS=3)
    assert said.all_of("CHILD") == [str(-signal.SIGALRM)]  # it would have waited for ever


SOON = "pause = lambda: time.sleep(0.5)\n"
AFTER_THE_FORK = """
forked, fork = threading.Event(), os.fork
def told_of():
    number = fork()
    if number:
        forked.set()
    return number
os.fork, pause = told_of, lambda: forked.wait(60)
"""
AMID_AN_IMPORT = """
os.register_at_fork(before=lambda: time.sleep(0.3))  # once the fork has all locks
import numlstm
begun = threading.Event()
def slow(event, given):
    if event == "import" and given[0] in ("numlstm.kernels.loading.cache", "llvmlite.binding.dylib"):
        begun.set()
        pause()
sys.addaudithook(slow)
thread = threading.Thread(target=result)
thread.start()
begun.wait()
child(told)
thread.join()
"""


def test_a_child_forked_while_another_thread_imports_what_makes_kernels(place, bits, code):
    """Of a module that is being imported the child would wait for the end, as of those that its own import leads to."""
    place.fill(code)
    said = place.run(FORKED + SOON + AMID_AN_IMPORT).right(bits)
    assert said.all_of("CHILD") == ["0"]
    stuck = AMID_AN_IMPORT.replace("child(told)", "child(lambda: (signal.alarm(5), told()))")
    stuck = FORKED + "import signal\n" + AFTER_THE_FORK + stuck
    unsafe = "os.register_at_fork = lambda **hooks: None\n"  # before numlstm is imported
    assert place.run(unsafe + stuck).all_of("CHILD") == [str(-signal.SIGALRM)]
    impatient = "from numlstm.kernels.loading import registry\nregistry.let_forks_pass = lambda: None\n"
    assert place.run(impatient + stuck).all_of("CHILD") == [str(-signal.SIGALRM)]


def test_a_fork_releases_no_lock_that_it_has_not_taken(place):
    """One that was made, and taken by another thread, while the fork waited for others."""
    script = """
from numlstm.base import fork_locks
def meanwhile():  # the latest hook runs first
    made.append(fork_locks.fork_safe(threading.Lock()))
    made[0].acquire()
made = []
os.register_at_fork(before=meanwhile)
child(lambda: None)
print("HELD", made[0].locked(), flush=True)
"""
    assert place.run(FORKED + script).all_of("HELD") == ["True"]
    planted = script.replace("fork_locks.fork_safe(", "careless(")
    careless = """
def careless(lock):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
"""
    assert place.run(FORKED + careless + planted).all_of("HELD") == ["False"]


def test_a_lock_that_another_fork_has_taken_is_free_in_the_child(place):
    """One fork began before the lock was made, and waits for another lock; meanwhile a second one takes both."""
    script = """
from numlstm.base import fork_locks
def meanwhile():  # when the first lock is taken: the latest hook runs first
    if not made:
        made.append(fork_locks.fork_safe(threading.Lock()))
        second.start()
        while not made[0].locked():
            time.sleep(0.01)
def fork():
    if not os.fork():
        os._exit(0)
made, second = [], threading.Thread(target=fork)
os.register_at_fork(before=meanwhile)
first = fork_locks.fork_safe(threading.Lock())
child(lambda: print("FREE", made[0].acquire(timeout=5), flush=True))
second.join()
print("PARENT", made[0].acquire(timeout=5), flush=True)
"""
    said = place.run(FORKED + script)
    assert said.all_of("FREE") == ["True"] and said.all_of("PARENT") == ["True"], said
    shut = "from numlstm.base import fork_locks\nfork_locks.suppress = lambda *kinds: sys.exit()\n"  # not released
    assert place.run(FORKED + shut + script).all_of("FREE") == ["False"]


SPAWNING = """
def work(_):
    return result()
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print("ALL", *pool.map(work, range(2)), flush=True)
"""


def test_spawned_children(place, bits, code):
    place.fill(code)
    path = place.file(place.path / "spawning.py", (faults.START + SPAWNING).encode(), mode=0o644)
    said = place.run_command([*faults.unprivileged(), sys.executable, str(path)])
    assert said.all_of("ALL") == [f"{bits} {bits}"], said


def test_a_thread_calls_first(place, bits, code):
    place.fill(code)
    script = """
import threading
found = []
threads = [threading.Thread(target=lambda: found.append(result())) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("ALL", *found)
"""
    said = place.run(script)
    assert said.status == 0 and said.all_of("ALL") == [" ".join(4 * [bits])], said


SUB = """
if "FAULTS_FIRST" in os.environ:
    print("FIRST", result())
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
number = interpreters.create()
script = os.environ["FAULTS_SCRIPT"]
try:
    failed = interpreters.run_string(number, script)
    if failed is not None:
        print("ERROR", *str(failed).split())
except Exception as error:
    print("ERROR", *str(error).split())
interpreters.destroy(number)
if "FAULTS_FIRST" in os.environ:
    print("FIRST", result())
print("AFTER")
"""


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_sub_interpreter_calls(place, bits, code, first):
    """NumPy has no part in sub-interpreters: what runs is right, or a sentence says so. The main one is not harmed."""
    place.fill(code)
    changes = {} if first else {"FAULTS_FIRST": "1"}
    said = place.run(SUB, FAULTS_SCRIPT=faults.START + "tell()\nsys.stdout.flush()\n", **changes)
    assert said.status == 0 and "AFTER" in said.out, said
    assert said.all_of("FIRST") == ([] if first else [bits, bits])
    errors = said.all_of("ERROR")
    if errors:  # NumPy's, that it is loaded once in a process only, or never outside the main interpreter
        assert len(errors) == 1 and ("more than once per process" in errors[0] or "interpreter" in errors[0])
    else:
        assert said.bits == bits


# ---- how Python is run, and where the package is


@pytest.mark.parametrize("option", ["-O", "-OO", "-I"])
def test_options_of_python(place, bits, code, option):
    """Isolated, it reads no variables of its own; optimised, it runs no assertion: the guards hold all the same."""
    path = place.fill(code)
    package = place.environment()["PYTHONPATH"].split(os.pathsep)[0]
    said = place.run(options=[option], FAULTS_PATH=package).right(bits)
    assert said.built == 0
    path.chmod(0o666)
    said = place.run(options=[option], FAULTS_PATH=package).right(bits)
    assert said.built == 1 and "others can write to" in said.out


def test_a_package_that_is_moved(place, bits):
    """Its cache is found again: an object belongs to what the sources say, wherever they are."""
    place.folder("home", "cache")
    first = place.path / "first"
    libraries.copy_of_package(first)
    for path in (first, *first.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert place.run("import numlstm; print('AT', numlstm.__file__)\ntell()", FAULTS_PATH=first).right(bits).built == 1
    second = first.rename(place.path / "second")
    said = place.run("import numlstm; print('AT', numlstm.__file__)\ntell()", FAULTS_PATH=second).right(bits)
    assert said.all_of("AT") == [str(second / "numlstm" / "__init__.py")]
    assert said.built == 0


# ---- another CPU

NEHALEM = ["qemu-x86_64", "-cpu", "Nehalem"]


def test_a_cpu_without_fma_and_avx2(place, code):
    """Under an emulator of one: the object for such CPUs, whose bits are those of this CPU when it runs that object."""
    if os.uname().machine != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("needs an x86-64 CPU and Linux")
    if not shutil.which(NEHALEM[0]):
        leave_out("needs the command qemu-x86_64 (Debian: qemu-user)")
    level = levels.LEVELS["x86-64"]
    old = jit.object_code("float32", level)[0]
    place.fill(old, level=level)
    here = place.run(NUMLSTM_CPU="x86-64")
    here.right(here.bits)
    said = place.run(between=NEHALEM).right(here.bits)
    assert said.built == 0 and "x86-64-v" not in said.origin
    said = place.run(between=NEHALEM, NUMLSTM_CPU="x86-64-v3")
    assert "NUMLSTM_CPU='x86-64-v3' is not a level that this CPU has; it has x86-64." in said.error
    if registry.level().fused:  # where the CPU is not asked, what it lacks ends the process
        script = f"""
from numlstm.kernels.loading import levels, registry
registry.level = lambda: levels.LEVELS[{registry.level().name!r}]
tell()
"""
        place.fill(code)
        assert abs(place.run(script, between=NEHALEM).status) == signal.SIGILL


# ---- compiling itself, once


def test_what_is_compiled_by_an_unprivileged_user_is_found_by_the_next_process(place, bits):
    said = place.run(compiles=True).right(bits)
    assert "and cached" in said.origin and "NUMBA True" in said.out
    said = place.run(compiles=True).right(bits)
    assert said.origin.startswith("cache: ") and "NUMBA False" in said.out
    assert "compiling" not in said.out
