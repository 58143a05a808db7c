"""Policies into one decorator.

pipeline             the pipeline, as users have it
lint                 orders and plans of policies that could never work, found when a pipeline is built
compose              binds the policies of a pipeline, outermost first, into one function of a call
gate_layer           the outermost layer of a guarded function, with its gates inside: compiled for their kinds
gate_layer_source    the source of that layer
in_flight            the calls inside a pipeline, and the full path that unusual calls take
functions            what can be guarded, and the innermost layer, which calls it
attempts             the policies around a block of code instead of a function
names                the table of named pipelines
"""

from resilient.pipeline.pipeline import Pipeline, flat, switch

__all__ = ["Pipeline", "flat", "switch"]
