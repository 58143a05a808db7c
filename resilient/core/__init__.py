"""The contract between policies and pipelines, and what all policies share.

An author of a policy imports from here (see docs/custom-policies.md); the rest serves the policies of this library.

The contract:

    policy             a policy: its facts, its copies, what a pipeline asks of it; and the Wrap, which runs calls
    gate               the Gate, which decides before a call and learns after it
    facts              what a policy states about itself: for lint, for explain, and for the code that binds it
    context            what a pipeline gives its policies: name, classifier, channel of events, mode
    layer              a policy bound to the layer inside it
    call               one guarded call: its function, its runtime, its attempt, its deadline

What outcomes mean:

    classify           the classifier of a pipeline
    verdict            what one outcome means for the policies
    known_errors       what the errors of well-known clients mean
    result             what can be found out about a result from its type
    lifecycle          results that go on after they were returned
    callbacks          errors of the user's own predicates, keys and hooks
    pushback           the pause that a server asks for

What calls carry:

    current_call       what a guarded function can find out about the call it is in
    call_options       what a call itself asks for
    deadline           the time by which everything inside has to end
    priority           which calls go first when there is not room for all
    headers            the headers that carry deadline, priority and attempt to a server
    budget             what pays for further requests
    background         calls that run beside their caller
    emit               the events of attempts and calls

Gates together:

    gate_group         neighbouring gates: admitted by all, or by none
    wait_queue         the queue of a gate
    deadlocks          waits in a queue that nothing could end
    shadow             a gate that decides and counts, and refuses nothing
    shadow_queue       the queue of such a gate, simulated

What explain asks:

    worst_case         the worst that a pipeline can cost a call
    levels             each policy around the rest of its pipeline
    stop               when repeated runs end
"""

from resilient.core.call import Call
from resilient.core.callbacks import ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.gate import Gate, Ticket
from resilient.core.layer import Layer
from resilient.core.policy import Policy, Wrap

__all__ = ["Call", "Facts", "Gate", "Layer", "PipelineContext", "Policy", "Ticket", "Wrap", "ask_about_call"]
