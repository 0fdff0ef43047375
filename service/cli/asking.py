"""Questions to whoever sits at the terminal; where nobody does, nothing is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from service.cli import output


def at_terminal() -> bool:
    """Whether somebody can be asked: the question goes to stderr, and the answer comes from stdin."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str, *, otherwise: bool) -> bool:
    """Ask for a yes; the end of input is none.

    Args:
        question: Without its question mark.
        otherwise: What Enter stands for.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    answers = {"y": "yes", "n": "no"} if otherwise else {"n": "no", "y": "yes"}
    return choice(question, answers, at_end="n") == "y"


def choice(question: str, answers: Mapping[str, str], *, at_end: str) -> str:
    """Ask until the answer is one of the letters or the words they stand for; Enter is the first of them.

    Args:
        question: Without its question mark.
        answers: Words by their letter, such as `{"y": "yes", "n": "no"}`.
        at_end: The letter that the end of input stands for.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    first = next(iter(answers))
    offered = ", ".join(
        f"{letter.upper() if letter == first else letter} = {words}" for letter, words in answers.items()
    )
    console = output.progress()
    while True:
        console.print(f"{question}? ({offered}) ", end="", markup=False, highlight=False, soft_wrap=True)
        line = sys.stdin.readline()
        if not line:
            console.print()
            return at_end
        given = line.strip().lower() or first
        for letter, words in answers.items():
            if given in (letter, words.lower()):
                return letter
