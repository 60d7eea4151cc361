"""Kills a run at a chosen write, whichever of its processes does it; see `test_kills`.

The text below becomes a `sitecustomize` that every Python process of the run imports. It looks at
each file that is about to be synced, leaves the chosen one half-written, and kills. With "full" for
whom, no such file can be written as long as the plan is there.
"""

HOOK = """
import os, re, signal

folder, real = os.path.dirname(os.path.abspath(__file__)), os.fsync

def fsync(descriptor):
    try:
        with open(folder + "/plan") as file:
            pattern, number, whom, group = file.read().split()
    except FileNotFoundError:
        return real(descriptor)
    if re.search(pattern, os.readlink(f"/proc/self/fd/{descriptor}")):
        with open(folder + "/count", "ab") as file:
            file.write(b"x")
        if whom == "full":
            raise OSError(28, "No space left on device")
        if os.path.getsize(folder + "/count") == int(number):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.unlink(folder + "/plan")
            if whom == "all":
                os.killpg(int(group), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    return real(descriptor)

os.fsync = fsync
"""
