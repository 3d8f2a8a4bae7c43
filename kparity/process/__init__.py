"""Child processes: one way to start, hear and end them, for probe, check, mutate and bench.

family    what a parent starts, marked so that nothing of it outlives the parent
keeper    ends the family when the parent is gone, whatever ended it
parent    the parent's side of one child: typed messages, deadlines, how it ended
inside    the child's side
ask       one question to a child that is started for it
"""

from kparity.process.family import Family
from kparity.process.inside import Link
from kparity.process.messages import Done, Failed, Stage, Tick, failure
from kparity.process.parent import Child, Garbled, wait

__all__ = ["Child", "Done", "Failed", "Family", "Garbled", "Link", "Stage", "Tick", "failure", "wait"]
