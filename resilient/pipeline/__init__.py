"""Binds policies into one decorator.

For users:

pipeline             `Pipeline`: what users build, listen to, switch and close
switching            `switch`: off, without second attempts, or without waits
names                the table of named pipelines
lint                 wrong orders, and plans that cannot work, found when a pipeline is built

From policies to a guarded function:

functions            the functions that can be guarded, and the innermost layer, which calls them
bindings             the policies of one pipeline around functions, blocks and nested pipelines
compose              binds policies, outermost first, into layers
gate_layer           compiles the gate layers, the outermost of which stands in place of the function

At a call, in reading order:

call_path            the path of a call: in a gate layer, on the full path, in nested pipelines and blocks
gate_layer_source    how a gate layer admits a call, and how its gates learn of the end
in_flight            counts calls, and says which path they take
earnings             pays successes into budgets
attempts             guards a block of code instead of a function
"""

from resilient.pipeline.pipeline import Pipeline, flat, own_budgets
from resilient.pipeline.switching import switch

__all__ = ["Pipeline", "flat", "own_budgets", "switch"]
