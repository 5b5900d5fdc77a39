"""Graph of steps: which are shared, which can contain themselves, and what a skipped value looks like.

Known before a line of a decoder is generated, and again when a malformed row is walked. Thread rule: built once, then only read (`plain`
was called for every skipped value while building).
"""

from __future__ import annotations

from fondaco.schema.resolution import (
    ReadArray,
    ReadMap,
    ReadRecord,
    ReadUnion,
    Resolver,
    Skip,
    Step,
    WrapUnion,
    min_step_size,
)


class StepGraph:
    """The facts about everything that `root` reaches."""

    def __init__(self, root: Step) -> None:
        self._resolve = Resolver()
        self._plain: dict[int, Step] = {}
        self.shared: set[int] = set()  # met on more than one way, or inside itself: becomes a function
        self.recursive: set[int] = set()
        self.items_without_bytes = False
        self._walk(root)

    def plain(self, step: Skip) -> Step:
        """The steps of reading a value that is passed over, as it was written."""
        if id(step) not in self._plain:
            self._plain[id(step)] = self._resolve.step(step.wire, step.wire, "$")
        return self._plain[id(step)]

    def _children(self, step: Step) -> list[Step]:
        match step:
            case Skip():
                return [self.plain(step)]
            case WrapUnion():
                return [step.inner]
            case ReadArray():
                return [step.item]
            case ReadMap():
                return [step.value]
            case ReadUnion():
                return list(step.branches)
            case ReadRecord():
                return [member.step for member in step.members]
        return []

    def _walk(self, root: Step) -> None:
        keep: list[Step] = []
        seen: set[int] = set()
        open_now: dict[int, int] = {}  # id -> place on the way from the root
        way: list[int] = []
        stack: list[tuple[Step, bool]] = [(root, False)]
        while stack:
            step, leaving = stack.pop()
            if leaving:
                way.pop()
                del open_now[id(step)]
                continue
            if id(step) in open_now:
                self.recursive.add(id(step))
                self.shared.add(id(step))
                continue
            if id(step) in seen:
                self.shared.add(id(step))
                continue
            seen.add(id(step))
            keep.append(step)
            if isinstance(step, ReadArray) and min_step_size(step.item) == 0:
                self.items_without_bytes = True
            open_now[id(step)] = len(way)
            way.append(id(step))
            stack.append((step, True))
            stack.extend((child, False) for child in reversed(self._children(step)))
