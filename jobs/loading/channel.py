"""A bounded queue between one producing and one consuming thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A queue with room for a few items and an end; its consumer can close it while the producer waits."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False

    def wait_for_room(self) -> bool:
        """Wait until there is room; False once the consumer has closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._room)
            return not self._closed

    def put(self, item: T) -> None:
        """Add an item, whether there is room or not; once closed it is dropped."""
        with self._changed:
            if not self._closed:
                self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is there and let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def get(self) -> T | None:
        """The next item; None at the end, or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._finished or self._items)
            item = self._items.popleft() if self._items and not self._closed else None
            self._changed.notify_all()
            return item
