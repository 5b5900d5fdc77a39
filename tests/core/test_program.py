"""How processes of ours end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import atexit, sys, threading, time
from fondaco.core.program import end_process

def work():
    time.sleep(0.2)
    print("done", end="")

atexit.register(print, "taken down")
threading.Thread(target=work).start()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("aside", end="", file=sys.stderr)
end_process(3)
"""


def test_a_process_ends_with_its_code_after_what_it_says_and_does_and_without_taking_the_interpreter_down() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done", "aside")
