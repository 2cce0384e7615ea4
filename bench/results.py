"""What was measured: every single figure, medians, ratios, and which goals are met."""

import json
import statistics

from measures import COLUMNS, GOALS


class Results:
    """Figures by measure, contender, and name; one for each round."""

    def __init__(self):
        self.figures = {}

    def add(self, measure, contender, figures):
        into = self.figures.setdefault(measure, {}).setdefault(contender, {})
        for name, value in figures.items():
            into.setdefault(name, []).append(value)

    def medians(self, measure):
        """By contender."""
        return {
            contender: {name: statistics.median(values) for name, values in figures.items()}
            for contender, figures in self.figures.get(measure, {}).items()
        }

    def shown(self, measure):
        """The figures of a measure in the order of `COLUMNS`; errors only if there were any."""
        medians = self.medians(measure)
        there = {name for values in medians.values() for name, value in values.items() if name != "errors" or value}
        return [name for name in COLUMNS if name in there]

    def ratio(self, measure, figure, contender):
        """How many times the other's figure adit's is: of several rounds, the median of each round's ratio."""
        ours = self.figures.get(measure, {}).get("adit", {}).get(figure)
        theirs = self.figures.get(measure, {}).get(contender, {}).get(figure)
        if not ours or not theirs or contender == "adit" or not all(theirs):
            return None
        return statistics.median(one / other for one, other in zip(ours, theirs))

    def goals(self):
        """Each goal of which there is a figure: what, the figure, the bound, and whether it is met."""
        for goal in GOALS:
            column = COLUMNS[goal.figure]
            if goal.than:
                found = self.ratio(goal.measure, goal.figure, goal.than)
                what = f"{goal.measure}, {column.title}, adit / {goal.than}"
            else:
                found = self.medians(goal.measure).get("adit", {}).get(goal.figure)
                what = f"{goal.measure}, {column.title}, adit"
            if found is not None:
                yield what, found, column.more, goal.bound, found >= goal.bound if column.more else found <= goal.bound

    def save(self, path):
        path.write_text(json.dumps(self.figures, indent=1))
