"""What a process may do to itself; started by `components.bounded`, without TensorFlow."""

import ctypes
import sys
import time

from components import bounded


def main(folder: str) -> None:
    request, stage = bounded.request_of(folder)
    stage(f"doing {request['act']}")
    acts = {
        "answer": lambda: bounded.answer(folder, {"got": request["act"], "number": 0.1}),
        "say nothing": lambda: None,
        "crash": lambda: ctypes.string_at(0),
        "hang": lambda: time.sleep(1000),
        "grow": grow,
        "raise": lambda: 1 / 0,
    }
    acts[request["act"]]()


def grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(b"x" * (4 << 20)))
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
