"""An executor that trains in this process, and loses populations as a cluster may."""

from collections import deque


class Losing:
    """Trains at once, but first asks `fate` of each population why it is lost, if it is."""

    n_threads = 2
    is_on_gpu = False

    def __init__(self, fate, *, population=None, n_slots=2):
        self.population, self.n_slots = population, n_slots
        self.fate, self.waiting, self.said, self.submitted = fate, deque(), [], []
        self.notice = self.said.append

    def slots(self):
        return self.n_slots

    def submit(self, task):
        self.submitted.append(task.numbers)
        self.waiting.append(task)

    def wait(self, progress):
        task = self.waiting.popleft()
        reason = self.fate(task)
        if reason:
            return [(task, reason)]
        found = task.trainer(
            task.configs, task.data, threads=1, thresholds=task.thresholds, progress=progress
        )
        return [(task, found)]

    def idle_share(self):
        return None

    def close(self): ...


def deadly(*numbers):
    """Whoever trains one of these dies."""
    return lambda task: "it died" if {*numbers} & {*task.numbers} else None
