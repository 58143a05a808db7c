"""The worst case of a pipeline, from its settings alone, without running it.

The explanation:

    analysis            `explain`: latency, attempts and requests of one call at worst, and how each error ends
    long_run            the limits that budgets set to the requests of many calls
    records             the parts of an explanation: a policy with its costs, the route of an error, the long run
    explanation         the explanation as a whole, as text and as data
    diagram             the explanation as a Mermaid diagram

What is explained:

    subject             the pipeline in a function, a transport, a client or a middleware
    object_reference    the import of `MODULE:NAME`
    error_location      an error of the user's code in one line, with file and line
"""

from resilient.explain.analysis import explain
from resilient.explain.explanation import Explanation
from resilient.explain.records import Behind, Idle, LongRun, Part, Route, Step

__all__ = ["Behind", "Explanation", "Idle", "LongRun", "Part", "Route", "Step", "explain"]
