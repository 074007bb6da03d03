"""An executor that trains in this process, and loses populations as a cluster may."""

from collections import Counter, deque

from mlp.flow.work import Done, Lost, train_population


class Losing:
    """Trains at once, but first asks `fate` of each population whether it is lost, and why."""

    n_threads = 2

    def __init__(self, fate, *, population=None, n_slots=2):
        self.population, self.n_slots = population, n_slots
        self.fate, self.waiting, self.said, self.trained = fate, deque(), [], []
        self.lost = Counter()
        self.notice = self.said.append

    def slots(self):
        return self.n_slots

    def submit(self, task):
        self.waiting.append(task)

    def wait(self, progress):
        task = self.waiting.popleft()
        lost = self.fate(task)
        if lost is not None:
            self.lost.update(task.numbers)
            return [lost]
        self.trained.append(task.numbers)
        found = train_population(
            task.configs, task.data, threads=1, thresholds=None, progress=progress
        )
        return [Done(task, tuple(found))]

    def idle_share(self):
        return None

    def close(self): ...


def deadly(*numbers):
    """Whoever trains one of these dies."""
    return lambda task: Lost(task, "it died", True) if {*numbers} & {*task.numbers} else None
