"""The process of one long run: a question on standard input, progress and the answer as lines of JSON on the output.

Run as ``python -m steelyard.page.worker`` by :mod:`steelyard.page.jobs`. It ends when its input does: with the server.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

__all__ = ["main"]

#: Seconds between two lines of progress at least.
_EVERY_S = 0.1


def main() -> int:
    """Answer the question on standard input."""
    question = json.loads(sys.stdin.buffer.readline() or b"{}")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything prints goes to the terminal
    threading.Thread(target=_end_with_server, daemon=True).start()
    lock, last = threading.Lock(), [0.0]

    def say(line: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(line, allow_nan=False) + "\n")
            out.flush()

    def tell(words: str, share: float | None = None) -> None:
        now = time.monotonic()
        if now - last[0] >= _EVERY_S:
            last[0] = now
            say({"tell": words, "share": share})

    from steelyard.errors import SteelyardError
    from steelyard.page.answers import shown_dict
    from steelyard.page.problems import wrong_of
    from steelyard.page.question import words_of
    from steelyard.page.screen import screen

    try:
        asked = screen(question["screen"])
        say({"shown": shown_dict(asked.ask(words_of(asked, question["given"]), tell))})
    except SteelyardError as error:
        say({"problems": [one.to_dict() for one in wrong_of(error)], "words": str(error)})
    except MemoryError:
        say({"problems": [{"field": "", "message": "there is not enough memory for this", "nearest": []}]})
    return 0


def _end_with_server() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
