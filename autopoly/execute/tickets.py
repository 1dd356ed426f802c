"""Find the record that kills a worker: what to run next for a shard whose worker died, in a bounded number of tries."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from autopoly.errors import RunError
from autopoly.execute.shards import Poison, Shard

UNEXPLAINED_MOST = 3
"""Deaths of a whole shard that no single record explains, before all records in hand are left out."""

_WORDS = {
    "worker_died": "the process that worked on this picture died (out of memory, or a fault in a library)",
    "worker_timeout": "working on this picture did not end in time",
}


@dataclass(slots=True)
class Ticket:
    """One shard on its way: run it whole; after a death, run the records that were in hand alone, then whole again without the guilty."""

    shard: Shard
    poison: dict[int, Poison] = field(default_factory=dict)
    suspects: deque[int] = field(default_factory=deque)
    accused: int | None = None
    """The record that died alone once: it is left out when it does so again."""
    unexplained: int = 0
    found: int = 0

    @property
    def suspected(self) -> bool:
        """Say whether a worker has died of this shard, or of another that it had at the same time."""
        return self.unexplained > 0

    def records(self) -> list[int] | None:
        """Give the records to run alone next, or None for the whole shard."""
        return [self.suspects[0]] if self.suspects else None

    def survived(self) -> bool:
        """Note that the last call came back; say whether the shard is finished."""
        if not self.suspects:
            return True
        self.suspects.popleft()
        return False

    def died(self, in_hand: Sequence[int], code: str) -> None:
        """Note that the last call took its worker down (``worker_died``) or never came back (``worker_timeout``).

        Raise RunError when the worker keeps dying before it has touched a single record.
        """
        if self.suspects:
            # Something else may have ended the worker just then: a person, or the kernel short of memory. What never ends, costs too much.
            if code == "worker_died" and self.accused != self.suspects[0]:
                self.accused = self.suspects[0]
            else:
                self._leave_out(self.suspects.popleft(), code)
            return
        self.unexplained = self.unexplained + 1 if len(self.poison) == self.found else 1
        self.found = len(self.poison)
        fresh = [record for record in in_hand if record not in self.poison]
        if self.unexplained <= UNEXPLAINED_MOST:
            self.suspects.extend(fresh)
        elif fresh:
            for record in fresh:
                self._leave_out(record, code)
        else:
            raise RunError(
                f"shard {self.shard.number}: its worker died {self.unexplained} times before it read a picture; "
                "check the memory of the machine, then run again to go on"
            )

    def _leave_out(self, record: int, code: str) -> None:
        self.poison[record] = Poison(record, code, _WORDS[code])
